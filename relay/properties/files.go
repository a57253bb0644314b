package properties

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxFileBytes bounds what is read of a file that a property names. A bundle
// of every public authority has about 250 KiB.
const maxFileBytes = 4 << 20

// readFile reads a regular file. Others are refused: reading from a pipe or a
// terminal could take for ever.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w; must be a file that can be read", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; must be one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w; must be a file that can be read", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w; must be a file that can be read", err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes; must be a PEM or PKCS#12 file", path, maxFileBytes)
	}
	return data, nil
}

// fromFiles reads each path, in order.
func fromFiles(paths ...string) func() ([][]byte, error) {
	return func() ([][]byte, error) {
		var out [][]byte
		for _, path := range paths {
			data, err := readFile(path)
			if err != nil {
				return nil, err
			}
			out = append(out, data)
		}
		return out, nil
	}
}

// fromPath reads a file, or the certificates in a directory, sorted by name.
func fromPath(path string) func() ([][]byte, error) {
	return func() ([][]byte, error) {
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			return fromFiles(path)()
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("%w; must be a directory that can be read", err)
		}
		var paths []string
		for _, e := range entries {
			if certificateName(e.Name()) {
				paths = append(paths, filepath.Join(path, e.Name()))
			}
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("%s holds no certificates; must hold files that end in .pem, .crt, .cer or .0", path)
		}
		return fromFiles(paths...)()
	}
}

// certificateName knows the endings of certificate files, and the names that
// OpenSSL gives them in a directory of authorities, such as 1d3472b9.0.
func certificateName(name string) bool {
	switch ext := filepath.Ext(name); ext {
	case ".pem", ".crt", ".cer":
		return true
	default:
		return len(ext) == 2 && ext[1] >= '0' && ext[1] <= '9'
	}
}

// fromText is PEM that stands in the configuration itself. Line breaks may
// have been escaped once too often on the way through a shell or a chart.
func fromText(s string) func() ([][]byte, error) {
	if !strings.Contains(s, "\n") {
		s = strings.ReplaceAll(s, `\n`, "\n")
	}
	return func() ([][]byte, error) { return [][]byte{[]byte(s)}, nil }
}
