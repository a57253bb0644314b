package compress

import (
	"testing"
)

func TestChoose(t *testing.T) {
	both, gzipOnly := []Coding{Zstd, Gzip}, []Coding{Gzip}
	for _, tt := range []struct {
		name, header string
		allowed      []Coding
		want         Coding
	}{
		{"no header", "", both, Identity},
		{"Chromium on TLS", "gzip, deflate, br, zstd", both, Zstd},
		{"the first of the allowed", "gzip, deflate, br, zstd", []Coding{Gzip, Zstd}, Gzip},
		{"Chromium without TLS", "gzip, deflate", both, Gzip},
		{"Go", "gzip", both, Gzip},
		{"nothing allowed", "gzip", nil, Identity},
		{"nothing in common", "br, deflate", both, Identity},
		{"not allowed", "zstd", gzipOnly, Identity},
		{"the client's weights come first", "zstd;q=0.5, gzip;q=0.8", both, Gzip},
		{"a thousandth", "zstd;q=0.123, gzip;q=0.124", both, Gzip},
		{"equal weights", "gzip;q=0.5,zstd;q=0.50", both, Zstd},
		{"refused", "gzip;q=0", gzipOnly, Identity},
		{"refused in three digits", "gzip;q=0.000", gzipOnly, Identity},
		{"anything", "*", both, Zstd},
		{"anything else", "zstd;q=0, *;q=0.1", both, Gzip},
		{"anything does not stand for what is named", "*;q=1, zstd;q=0.1, gzip;q=0.2", both, Gzip},
		{"nothing else", "gzip, *;q=0", both, Gzip},
		{"nothing", "*;q=0", both, Identity},
		{"identity by name", "identity, gzip;q=0.5", both, Identity},
		{"identity as good as another", "identity, gzip", both, Gzip},
		{"identity that is less", "identity;q=0.1, gzip;q=0.5", both, Gzip},
		{"identity refused", "identity;q=0, gzip;q=0.1", both, Gzip},
		{"identity refused, and nothing to offer", "identity;q=0, br", both, Identity},
		{"identity is not anything", "*, gzip;q=0.5", gzipOnly, Gzip},
		{"blanks", " gzip ; q=0.5 ,\tzstd\t;\tq=0.4 ", both, Gzip},
		{"case", "GZip;Q=1", both, Gzip},
		{"the old name", "x-gzip", both, Gzip},
		{"empty members", ",,gzip,,", both, Gzip},
		{"part of a name", "gzipped, xgzip", both, Identity},
		{"more than one", "gzip;q=1.001", both, Identity},
		{"too many digits", "gzip;q=0.1234", both, Identity},
		{"no number", "gzip;q=high", both, Identity},
		{"no digits", "gzip;q=", both, Identity},
		{"negative", "gzip;q=-1", both, Identity},
		{"a dot is enough", "gzip;q=1.", both, Gzip},
		{"another parameter", "gzip;level=1", both, Identity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Choose(tt.header, tt.allowed); got != tt.want {
				t.Errorf("Choose(%q, %q): got %q, want %q", tt.header, tt.allowed, got, tt.want)
			}
		})
	}
}

func FuzzChoose(f *testing.F) {
	f.Add("gzip, deflate, br, zstd")
	f.Add("identity;q=0.5, *;q=0")
	f.Add(" gzip ; q=0.001 ,;q=,")
	f.Fuzz(func(t *testing.T, header string) {
		for _, only := range []Coding{Gzip, Zstd} {
			// A coding that wins against others wins alone too.
			if Choose(header, []Coding{Gzip, Zstd}) == only && Choose(header, []Coding{only}) != only {
				t.Errorf("%q: %s among two, but not alone", header, only)
			}
		}
	})
}
