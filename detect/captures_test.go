package detect

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// captures is the folder of captured hosts, which are not part of the project
// because their licences differ.
func captures(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("NAPITUNE_HOSTS is unset: CI must test against the captured hosts")
		}
		t.Skip("NAPITUNE_HOSTS is unset: the captured hosts are not here")
	}
	return dir
}

// capturedHost reads one case as a host that has files only: package archive
// adds the kept outputs of ethtool, which these tests do without.
func capturedHost(t testing.TB, name string) *host.Host {
	t.Helper()
	f, err := os.Open(filepath.Join(captures(t), name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := tree.New()
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return &host.Host{FS: out}
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, ok := strings.Cut(strings.TrimSuffix(h.Name, "/"), "/")
		if !ok || strings.HasPrefix(name, "upstream_expected") {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			err = out.WriteFile(name, data)
			if err != nil {
				t.Fatal(err)
			}
		case tar.TypeSymlink:
			if err := out.Symlink(name, h.Linkname); err != nil {
				t.Fatal(err)
			}
		}
	}
}
