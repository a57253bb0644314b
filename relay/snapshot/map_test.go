package snapshot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const plenty = 1 << 40

var start = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func newMap(t testing.TB, match func(*kgo.Record) bool) *Map {
	t.Helper()
	return New(Config{Topic: "orders", Match: match, MaxBytes: plenty, Budget: NewBudget(plenty)})
}

// record is key=value; a bare key is a tombstone, and a text that begins with
// = has no key.
func record(partition int32, offset int64, text string) *kgo.Record {
	key, value, found := strings.Cut(text, "=")
	r := &kgo.Record{Topic: "orders", Partition: partition, Offset: offset, Timestamp: start.Add(time.Duration(offset) * time.Second)}
	if key != "" {
		r.Key = []byte(key)
	}
	if found {
		r.Value = []byte(value)
	}
	return r
}

// apply gives m records of one partition from offset on, and returns what is sent of each.
func apply(t testing.TB, m *Map, partition int32, offset int64, texts ...string) (sent []Verdict) {
	t.Helper()
	for i, text := range texts {
		v, err := m.Apply(record(partition, offset+int64(i), text))
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, v)
	}
	return sent
}

func version(t testing.TB, m *Map, now time.Time) *Version {
	t.Helper()
	v, err := m.Version(now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// read is all of a version as key=value, in pages of size records.
func read(v *Version, size int, match func(*kgo.Record) bool) (texts []string, err error) {
	for seen, done := 0, false; !done; {
		left := size
		if seen, done, err = v.Page(seen, match, func(r *kgo.Record) bool {
			texts = append(texts, string(r.Key)+"="+string(r.Value))
			left--
			return left > 0
		}); err != nil {
			return texts, err
		}
	}
	return texts, nil
}

func wantRead(t testing.TB, v *Version, match func(*kgo.Record) bool, want ...string) {
	t.Helper()
	got, err := read(v, 2, match)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("version %s is %q, %v, want %q", v.ID(), got, err, want)
	}
}

func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name    string
		records []string
		sent    []Verdict
		want    []string
	}{
		{"the newest of each key, in the order of the keys", []string{"b=1", "a=1", "b=2"}, []Verdict{Send, Send, Send}, []string{"a=1", "b=2"}},
		{"a null value deletes", []string{"a=1", "b=1", "a"}, []Verdict{Send, Send, Delete}, []string{"b=1"}},
		{"an empty value does not", []string{"a=1", "a="}, []Verdict{Send, Send}, []string{"a="}},
		{"a key that never was is not mentioned", []string{"a"}, []Verdict{Nothing}, nil},
		{"a key that came back", []string{"a=1", "a", "a", "a=2"}, []Verdict{Send, Delete, Nothing, Send}, []string{"a=2"}},
		{"null keys are left out, but sent", []string{"=1", "a=1", "="}, []Verdict{Send, Send, Send}, []string{"a=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMap(t, nil)
			if got := apply(t, m, 0, 5, tt.records...); !slices.Equal(got, tt.sent) {
				t.Errorf("sent %v, want %v", got, tt.sent)
			}
			wantRead(t, version(t, m, start), nil, tt.want...)
			if got, want := m.Position(), []int64{5 + int64(len(tt.records))}; !slices.Equal(got, want) {
				t.Errorf("position %v, want %v", got, want)
			}
		})
	}
}

func TestNullKeysAreCounted(t *testing.T) {
	m := newMap(t, func(r *kgo.Record) bool { return string(r.Value) != "no" })
	apply(t, m, 0, 0, "=yes", "=no", "", "a=yes")
	if got := m.Stats(); got.NullKeys != 1 || got.Keys != 1 {
		t.Errorf("got %d null keys and %d keys, want 1 and 1", got.NullKeys, got.Keys)
	}
	if m.Newest(nil) != nil {
		t.Error("there is a record of the null key")
	}
	apply(t, m, 0, 9, "=x")
	if v, err := m.Apply(&kgo.Record{Topic: "orders", Offset: 10, Key: []byte{}, Value: []byte("empty")}); v != Send || err != nil {
		t.Errorf("a record with an empty key: %v, %v, want send", v, err)
	}
	if r := m.Newest([]byte{}); r == nil || string(r.Value) != "empty" {
		t.Errorf("the record of the empty key is %v", r)
	}
}

func TestRepeatsAreLeftOut(t *testing.T) {
	m := newMap(t, nil)
	apply(t, m, 0, 0, "a=1", "a=2")
	apply(t, m, 2, 7, "b=1")
	if got := apply(t, m, 0, 0, "a=1"); got[0] != Nothing {
		t.Errorf("a record that was applied before is to be sent: %v", got)
	}
	m.Advance(1, 9)
	m.Advance(1, 3)
	if got := apply(t, m, 1, 8, "c=1"); got[0] != Nothing {
		t.Errorf("a record before the position is to be sent: %v", got)
	}
	wantRead(t, version(t, m, start), nil, "a=2", "b=1")
	if got, want := m.Position(), []int64{2, 9, 8}; !slices.Equal(got, want) {
		t.Errorf("position %v, want %v", got, want)
	}
}

// Adding partitions moves keys: what is left in the old one must not win over
// what is newer, in whichever order the partitions were read.
func TestKeyInTwoPartitions(t *testing.T) {
	for _, tt := range []struct {
		name  string
		live  bool
		first string // of partition 0, at offset 9 and therefore newer
		then  string // of partition 1, at offset 1
		want  []string
	}{
		{"while loading the newer wins", false, "a=new", "a=old", []string{"a=new"}},
		{"an old tombstone deletes nothing newer", false, "a=new", "a", []string{"a=new"}},
		{"listeners have what came last", true, "a=new", "a=old", []string{"a=old"}},
		{"and lose what was deleted last", true, "a=new", "a", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMap(t, nil)
			if tt.live {
				m.Live()
			}
			apply(t, m, 0, 9, tt.first)
			apply(t, m, 1, 1, tt.then)
			wantRead(t, version(t, m, start), nil, tt.want...)
		})
	}
}

func open(r *kgo.Record) bool { return strings.HasPrefix(string(r.Value), "open") }

// What a filtered view sends must not depend on whether its map is its own.
func TestVerdicts(t *testing.T) {
	own, whole := newMap(t, open), newMap(t, nil)
	for i, tt := range []struct {
		record string
		want   Verdict
	}{
		{"a=open1", Send},
		{"a=open2", Send},
		{"a=shut", Delete},
		{"a=shut again", Nothing},
		{"a", Nothing},
		{"b=shut", Nothing},
		{"b", Nothing},
		{"c=open", Send},
		{"c", Delete},
		{"c", Nothing},
		{"=open", Send},
		{"=shut", Nothing},
		{"", Nothing},
		{"d=open", Send},
	} {
		r := record(0, int64(i), tt.record)
		ofWhole, err := whole.Verdict(r, open)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, whole, 0, int64(i), tt.record)
		ofOwn := apply(t, own, 0, int64(i), tt.record)[0]
		if ofOwn != tt.want || ofWhole != tt.want {
			t.Errorf("%q: own map says %v, the topic's %v, want %v", tt.record, ofOwn, ofWhole, tt.want)
		}
		if again, _ := whole.Verdict(r, open); again != Nothing {
			t.Errorf("%q: %v after it was applied, want nothing", tt.record, again)
		}
	}
	apply(t, own, 0, 100, "e=shut")
	apply(t, whole, 0, 100, "e=shut")
	wantRead(t, version(t, own, start), nil, "d=open")
	wantRead(t, version(t, whole, start), open, "d=open")
}

func TestRecordsAreKeptWhole(t *testing.T) {
	m := newMap(t, nil)
	r := &kgo.Record{
		Topic: "orders", Partition: 3, Offset: 1204, Timestamp: time.UnixMilli(1777629600123), Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1}),
		Key: []byte("k"), Value: []byte("value"),
		Headers: []kgo.RecordHeader{{Key: "trace", Value: []byte("abc")}, {Key: "null"}, {Key: "empty", Value: []byte{}}, {Key: "trace", Value: []byte("def")}},
	}
	want := *r
	want.Headers = slices.Clone(r.Headers)
	key, value, trace := bytes.Clone(r.Key), bytes.Clone(r.Value), bytes.Clone(r.Headers[0].Value)
	if _, err := m.Apply(r); err != nil {
		t.Fatal(err)
	}
	// The reader of Kafka uses its memory again.
	for _, b := range [][]byte{r.Key, r.Value, r.Headers[0].Value} {
		clear(b)
	}
	r.Headers[1] = kgo.RecordHeader{Key: "overwritten", Value: []byte("x")}
	want.Key, want.Value, want.Headers[0].Value = key, value, trace

	if got := m.Newest(key); fmt.Sprintf("%#v", *got) != fmt.Sprintf("%#v", want) {
		t.Errorf("got  %#v\nwant %#v", *got, want)
	}
}

func TestVersions(t *testing.T) {
	m := newMap(t, nil)
	apply(t, m, 0, 0, "a=1", "b=1", "c=1")
	first := version(t, m, start)
	if again := version(t, m, start); again != first {
		t.Error("nothing was applied between two versions, and they are two")
	}
	apply(t, m, 0, 3, "a=2", "b", "d=1")
	second := version(t, m, start.Add(time.Second))
	apply(t, m, 0, 6, "a", "c", "d")
	wantRead(t, first, nil, "a=1", "b=1", "c=1")
	wantRead(t, second, nil, "a=2", "c=1", "d=1")
	wantRead(t, version(t, m, start.Add(2*time.Second)), nil)
	if got, want := second.Position(), []int64{6}; !slices.Equal(got, want) {
		t.Errorf("position %v, want %v", got, want)
	}
	place := Place{Version: first.ID(), Seen: 2}
	if got, err := m.Find(place.Version, start); got != first || err != nil {
		t.Errorf("found %v, %v, want the version", got, err)
	}
	if _, err := newMap(t, nil).Find(place.Version, start); !errors.Is(err, ErrExpired) {
		t.Errorf("another map says %v, want %v", err, ErrExpired)
	}
	// Whoever has had everything need not come again for an empty page, and the
	// last record stays what it was while others are looked at.
	var last *kgo.Record
	notC := func(r *kgo.Record) bool { return string(r.Key) != "c" }
	seen, done, err := first.Page(1, notC, func(r *kgo.Record) bool { last = r; return true })
	if seen != 3 || !done || err != nil || string(last.Key) != "b" {
		t.Errorf("the last page came to %d with %s last, done %v, %v, want 3 with b and done", seen, last.Key, done, err)
	}
	if seen, done, err := first.Page(99, nil, nil); seen != 99 || !done || err != nil {
		t.Errorf("a page behind the end: %d, %v, %v", seen, done, err)
	}
}

func TestExpiry(t *testing.T) {
	m := newMap(t, nil)
	apply(t, m, 0, 0, "a=1", "b=1")
	old := version(t, m, start)
	apply(t, m, 0, 2, "a=2")
	young := version(t, m, start.Add(KeepFor/2))
	apply(t, m, 0, 3, "a=3", "b")

	m.Expire(start.Add(KeepFor - 1))
	wantRead(t, old, nil, "a=1", "b=1")
	m.Expire(start.Add(KeepFor))
	if _, err := read(old, 1, nil); !errors.Is(err, ErrExpired) {
		t.Errorf("reading an old version: %v, want %v", err, ErrExpired)
	}
	wantRead(t, young, nil, "a=2", "b=1")
	// A version that is shared again lives for its newest reader.
	if again := version(t, m, start.Add(KeepFor)); again == young {
		t.Fatal("a version was shared beyond a change")
	}
	shared := version(t, m, start.Add(KeepFor))
	if version(t, m, start.Add(2*KeepFor-1)) != shared {
		t.Fatal("a version was not shared")
	}
	if _, err := m.Find(shared.ID(), start.Add(2*KeepFor+1)); err != nil {
		t.Errorf("a version that was shared lately: %v", err)
	}
	if _, err := m.Find(young.ID(), start.Add(2*KeepFor)); !errors.Is(err, ErrExpired) {
		t.Errorf("finding an old version: %v, want %v", err, ErrExpired)
	}
	m.Expire(start.Add(4 * KeepFor))
	if got := m.Stats(); got.Held != 0 || got.Versions != 0 {
		t.Errorf("%d bytes in %d versions are left, want none", got.Held, got.Versions)
	}
}

func TestBounds(t *testing.T) {
	large := strings.Repeat("x", 1000)
	t.Run("a map", func(t *testing.T) {
		budget := NewBudget(plenty)
		m := New(Config{Topic: "orders", MaxBytes: 10_000, Budget: budget})
		var err error
		n := int64(0)
		for ; err == nil && n < 100; n++ {
			_, err = m.Apply(record(0, n, fmt.Sprintf("k%d=%s", n, large)))
		}
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "10000 for one snapshot") {
			t.Errorf("got %v, want %v", err, ErrTooLarge)
		}
		if n < 8 || n > 10 {
			t.Errorf("%d records of 1000 bytes were too large for 10,000 bytes", n)
		}
		if budget.Used() != 0 || m.Stats().Bytes != 0 {
			t.Errorf("%d bytes are still taken, the map says %d, want none", budget.Used(), m.Stats().Bytes)
		}
		if _, err := m.Apply(record(0, n, "a=1")); !errors.Is(err, ErrTooLarge) {
			t.Errorf("the next record: %v, want %v", err, ErrTooLarge)
		}
		if _, err := m.Version(start); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a version: %v, want %v", err, ErrTooLarge)
		}
	})
	t.Run("a full map goes on with records as large", func(t *testing.T) {
		m := New(Config{Topic: "orders", MaxBytes: 5 * entryBytes([]byte("k0"), []byte(large), nil, 0), Budget: NewBudget(plenty)})
		for n := range int64(100) {
			apply(t, m, 0, n, fmt.Sprintf("k%d=%s", n%5, large))
		}
	})
	t.Run("all maps", func(t *testing.T) {
		budget := NewBudget(10_000)
		a, b := New(Config{Topic: "a", MaxBytes: plenty, Budget: budget}), New(Config{Topic: "b", MaxBytes: plenty, Budget: budget})
		apply(t, a, 0, 0, "k0="+large, "k1="+large, "k2="+large, "k3="+large)
		var err error
		for n := int64(0); err == nil && n < 100; n++ {
			_, err = b.Apply(record(0, n, fmt.Sprintf("k%d=%s", n, large)))
		}
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "10000 for all snapshots together") {
			t.Errorf("got %v, want %v", err, ErrTooLarge)
		}
		if got, want := budget.Used(), a.Stats().Bytes; got != want {
			t.Errorf("%d bytes are taken, want the %d of the other map", got, want)
		}
		apply(t, a, 0, 4, "k4="+large)
		a.Close()
		if budget.Used() != 0 {
			t.Errorf("%d bytes are taken after the end, want none", budget.Used())
		}
		if _, err := a.Version(start); !errors.Is(err, ErrClosed) {
			t.Errorf("a version of a closed map: %v, want %v", err, ErrClosed)
		}
	})
	t.Run("versions go first", func(t *testing.T) {
		m := New(Config{Topic: "orders", MaxBytes: 12_000, Budget: NewBudget(plenty)})
		apply(t, m, 0, 0, "a="+large, "b="+large)
		old := version(t, m, start)
		for n := range int64(100) {
			apply(t, m, 0, 2+n, "a="+large)
			if _, err := m.Version(start); err != nil {
				t.Fatal(err)
			}
			// Each holds a record and a node, and there is room for four of them.
			if got := m.Stats(); got.Bytes > 12_000 || (n > 4 && got.Versions < 4) {
				t.Fatalf("%d bytes and %d versions, want at most 12,000 and 4", got.Bytes, got.Versions)
			}
		}
		if _, _, err := old.Page(0, nil, func(*kgo.Record) bool { return true }); !errors.Is(err, ErrExpired) {
			t.Errorf("the oldest version: %v, want %v", err, ErrExpired)
		}
		if got := m.Stats(); got.Evicted == 0 || got.Keys != 2 {
			t.Errorf("%d versions were evicted and %d keys are left, want some and 2", got.Evicted, got.Keys)
		}
	})
	t.Run("versions hold what they alone have", func(t *testing.T) {
		m := newMap(t, nil)
		apply(t, m, 0, 0, "a="+large, "b="+large)
		version(t, m, start)
		apply(t, m, 0, 2, "a="+large, "a="+large, "a="+large, "b", "c=1", "c")
		if got, want := m.Stats().Held, entryBytes([]byte("a"), []byte(large), nil, 0)+entryBytes([]byte("b"), []byte(large), nil, 0)+nodeBytes; got != want {
			t.Errorf("%d bytes are held, want %d: the first a and b, and the node they were in", got, want)
		}
	})
}

// TestModel applies random records and compares what versions say with copies
// of a plain map, while other goroutines read them page by page.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			keys, partitions := 1+rng.IntN(3000), 1+rng.IntN(4)
			maxBytes := int64(plenty)
			if seed%2 == 1 { // enough for all keys, but not for all versions
				maxBytes = int64(keys)*entryBytes([]byte("k1000"), []byte("4294967295"), nil, 0) + 100*nodeBytes
			}
			budget := NewBudget(plenty)
			m := New(Config{Topic: "orders", MaxBytes: maxBytes, Budget: budget})
			m.Live()
			model := make(map[string]string)
			next := make([]int64, partitions)
			now := start
			var readers sync.WaitGroup
			defer readers.Wait()
			check := func(v *Version) {
				want := make([]string, 0, len(model))
				for key, value := range model {
					want = append(want, key+"="+value)
				}
				slices.SortFunc(want, func(a, b string) int {
					keyA, _, _ := strings.Cut(a, "=")
					keyB, _, _ := strings.Cut(b, "=")
					return cmp.Compare(keyA, keyB)
				})
				size := 1 + rng.IntN(100)
				readers.Go(func() {
					got, err := read(v, size, nil)
					if err != nil && !errors.Is(err, ErrExpired) {
						t.Error(err)
					}
					if err == nil && !slices.Equal(got, want) {
						t.Errorf("version %s has %d records, want %d, or they differ", v.ID(), len(got), len(want))
					}
				})
			}
			for range 20_000 {
				p := rng.IntN(partitions)
				key, value := fmt.Sprint("k", rng.IntN(keys)), fmt.Sprint(rng.Uint32())
				text, want := key+"="+value, Send
				if _, had := model[key]; rng.IntN(4) == 0 {
					text, want = key, Nothing
					if had {
						want = Delete
					}
				}
				next[p] += int64(rng.IntN(3)) // compaction leaves holes
				if got := apply(t, m, int32(p), next[p], text)[0]; got != want {
					t.Fatalf("%q: %v, want %v", text, got, want)
				}
				next[p]++
				if got := m.Stats().Bytes; got > maxBytes || got != budget.Used() {
					t.Fatalf("%d bytes, and %d of the budget, want at most %d", got, budget.Used(), maxBytes)
				}
				if strings.Contains(text, "=") {
					model[key] = value
				} else {
					delete(model, key)
				}
				if rng.IntN(200) == 0 {
					now = now.Add(time.Duration(rng.IntN(20)) * time.Second)
					check(version(t, m, now))
				}
			}
			check(version(t, m, now))
			readers.Wait()

			m.Expire(now.Add(KeepFor))
			want := int64(0)
			for key, value := range model {
				want += entryBytes([]byte(key), []byte(value), nil, 0)
			}
			if got := m.Stats(); got.Bytes != want || got.Held != 0 || got.Keys != len(model) || budget.Used() != want {
				t.Errorf("%+v, budget %d, want %d bytes of %d keys and nothing held", got, budget.Used(), want, len(model))
			}
			if got := m.Stats().Evicted > 0; got != (seed%2 == 1) {
				t.Errorf("versions were evicted: %v, want %v", got, seed%2 == 1)
			}
			m.Close()
			if budget.Used() != 0 {
				t.Errorf("%d bytes are taken after the end, want none", budget.Used())
			}
		})
	}
}

func TestPageOfFewMatchesEnds(t *testing.T) {
	m := newMap(t, nil)
	for n := range int64(3 * maxExamined) {
		apply(t, m, 0, n, fmt.Sprintf("%09d=shut", n))
	}
	apply(t, m, 0, 3*maxExamined, "z=open")
	v := version(t, m, start)
	seen, done, err := v.Page(0, open, nil)
	if seen != maxExamined || done || err != nil {
		t.Errorf("the first page came to %d, done %v, %v, want %d and more", seen, done, err, maxExamined)
	}
	wantRead(t, v, open, "z=open")
}

func TestPlace(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Place
		bad  bool
	}{
		{text: "3w5e11264sgsf.2.rs", want: Place{"3w5e11264sgsf.2", 1000}},
		{text: "v.0", want: Place{"v", 0}},
		{text: "", bad: true},
		{text: "v", bad: true},
		{text: ".5", bad: true},
		{text: "v.", bad: true},
		{text: "v.-1", bad: true},
		{text: "v.+", bad: true},
		{text: "v.zzzzzzzzzzzzzz", bad: true},
	} {
		got, err := ParsePlace(tt.text)
		if (err != nil) != tt.bad || got != tt.want {
			t.Errorf("%q: %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
		if err == nil && got.String() != tt.text {
			t.Errorf("%q is written %q", tt.text, got)
		}
	}
}

func FuzzPlace(f *testing.F) {
	f.Add("3w5e11264sgsf.2.rs")
	f.Add("v.0")
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePlace(text)
		if err != nil {
			return
		}
		if again, err := ParsePlace(p.String()); again != p || err != nil {
			t.Errorf("%q is %+v, and written %q it is %+v, %v", text, p, p, again, err)
		}
	})
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

const benchKeys = 1_000_000

// benchRecords are records with keys of 12 bytes, in an order as of hashes, and
// values of 100.
func benchRecords(n int) []*kgo.Record {
	value := bytes.Repeat([]byte("v"), 100)
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: "orders", Offset: int64(i), Timestamp: start,
			Key: fmt.Appendf(nil, "user-%07d", i*7919%n), Value: value,
		}
	}
	return records
}

func BenchmarkBuild(b *testing.B) {
	records := benchRecords(benchKeys)
	b.ReportAllocs()
	var perKey, counted float64
	for b.Loop() {
		b.StopTimer()
		from := heapBytes()
		b.StartTimer()
		m := newMap(b, nil)
		for _, r := range records {
			if _, err := m.Apply(r); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		perKey, counted = float64(heapBytes()-from)/benchKeys, float64(m.Stats().Bytes)/benchKeys
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchKeys), "ns/key")
	b.ReportMetric(perKey, "heap-B/key")
	b.ReportMetric(counted, "counted-B/key")
}

func built(b *testing.B) (*Map, []*kgo.Record) {
	b.Helper()
	m, records := newMap(b, nil), benchRecords(benchKeys)
	for _, r := range records {
		if _, err := m.Apply(r); err != nil {
			b.Fatal(err)
		}
	}
	return m, records
}

// BenchmarkVersion makes a version after each record, and says what the record
// costs with it.
func BenchmarkVersion(b *testing.B) {
	m, records := built(b)
	for _, versions := range []bool{false, true} {
		b.Run(fmt.Sprintf("versions=%v", versions), func(b *testing.B) {
			b.ReportAllocs()
			now := start
			for i := 0; b.Loop(); i++ {
				r := *records[i%len(records)]
				r.Offset = m.Position()[0]
				if _, err := m.Apply(&r); err != nil {
					b.Fatal(err)
				}
				if versions {
					now = now.Add(KeepFor / 10) // ten are kept
					version(b, m, now)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	m, _ := built(b)
	v := version(b, m, start)
	const pageBytes = 64 << 10
	b.ReportAllocs()
	pages := 0
	for b.Loop() {
		for seen, done := 0, false; !done; pages++ {
			left := pageBytes
			var err error
			if seen, done, err = v.Page(seen, nil, func(r *kgo.Record) bool {
				left -= len(r.Key) + len(r.Value)
				return left > 0
			}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*benchKeys), "ns/key")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(pages), "us/page")
}
