package auth

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Many clients at once, while keys change, answers are kept and forgotten, and
// some have no right: each gets what is theirs.
func TestManyAtOnce(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	one, two := jwk(t, &k.ec.PublicKey, "1", "", ""), jwk(t, &k.ec2.PublicKey, "2", "", "")
	p.has(one, two)
	f, api := asking(t, func(c *Config) { c.JWKSURLs, c.CacheEntries, c.MaxAsked = []string{p.jwks()}, 5, 3 })
	api.does(func(w http.ResponseWriter, r *http.Request) {
		claims := jwt.MapClaims{}
		text := r.Header.Get("Authorization")[len("Bearer "):]
		if _, _, err := jwt.NewParser().ParseUnverified(text, claims); err != nil {
			t.Errorf("the API was shown %q: %v", text, err)
		}
		w.Header().Set("X-Spillway-Topics", fmt.Sprint("topic-", claims["sub"]))
		if claims["sub"] == "user-0" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	f.run(t)
	tokens := make([]string, 10)
	for i := range tokens {
		private, kid := k.ec, "1"
		if i%2 == 1 {
			private, kid = k.ec2, "2"
		}
		tokens[i] = sign(t, jwt.SigningMethodES256, private, claimsOf(map[string]any{"sub": fmt.Sprint("user-", i), "topics": ".*"}), map[string]any{"kid": kid})
	}
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			for n := range 50 {
				i := (c + n) % len(tokens)
				id, err := f.Identify(t.Context(), of(tokens[i]))
				if i == 0 {
					if !errors.As(err, new(*Denied)) {
						t.Errorf("user 0: got %+v, %v, want a Denied", id, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("user %d: %v", i, err)
					continue
				}
				for other := range tokens {
					if got := id.MayRead("topic-user-" + strconv.Itoa(other)); got != (other == i) {
						t.Errorf("user %d may read what is user %d's: %v", i, other, got)
					}
				}
				if _, err := f.Recheck(t.Context(), id.Question); err != nil {
					t.Errorf("user %d again: %v", i, err)
				}
				if n%10 == 0 {
					f.advance(time.Second)
					p.has(two, one)
				}
			}
		})
	}
	all.Wait()
}

// What was begun for clients that have left comes to its end with Close.
func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		k := keysOfTests()
		cfg := defaults()
		api := newAPIServer(t)
		cfg.URL, cfg.Key = api.URL, string(k.secret)
		f := authenticator(t, func(c *Config) { *c = cfg })
		api.does(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond): // as long as an API takes
			}
		})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				f.Identify(t.Context(), with(events+"&n="+strconv.Itoa(i), "Authorization", of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), nil)).Header.Get("Authorization")))
			})
		}
		all.Wait()
		f.Close()
		api.Close()
	}()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}
