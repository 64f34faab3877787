package archive_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"


	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
)

// hostsFolder is the folder of captured hosts, which are not part of the project.
func hostsFolder(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("NAPITUNE_HOSTS")
	if folder == "" && os.Getenv("CI") == "true" {
		t.Fatal("NAPITUNE_HOSTS is not set: the captured hosts must be tested in CI")
	}
	if folder == "" {
		t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to open")
	}
	return folder
}

func openHost(t testing.TB, name string) *archive.Capture {
	t.Helper()
	c, err := archive.Open(filepath.Join(hostsFolder(t), name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// conclusive reports whether an error is an answer that parsers may give.
func conclusive(err error) bool {
	return err == nil || errors.Is(err, host.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, fs.ErrPermission) || errors.Is(err, host.ErrNotCaptured)
}

// askEthtool asks everything of one device and returns the errors by call.
func askEthtool(e host.Ethtool, dev string) map[string]error {
	errs := map[string]error{}
	_, errs["-i"] = e.DriverInfo(dev)
	_, errs["-l"] = e.Channels(dev)
	_, errs["-g"] = e.Rings(dev)
	_, errs["-c"] = e.Coalesce(dev)
	_, errs["-k"] = e.Features(dev)
	_, errs["-x"] = e.RSS(dev)
	_, errs["-S"] = e.Stats(dev)
	return errs
}

func TestEveryCapturedHostOpens(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(hostsFolder(t), "*", "*.tar.gz"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d captured hosts, %v; want the 100 and more of the index", len(files), err)
	}
	outputs := 0
	for _, file := range files {
		c, err := archive.Open(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, h := range c.Samples {
			if _, err := h.Ident(); err != nil {
				t.Errorf("%s: ident: %v", file, err)
			}
			entries, _ := h.ReadDir("sos_commands/networking")
			for _, e := range entries {
				option, dev, ok := strings.Cut(strings.TrimPrefix(e.Name(), "ethtool_"), "_")
				known := strings.Contains("-i -l -g -c -k -x -S", option)
				if !strings.HasPrefix(e.Name(), "ethtool_-") || !ok || !known {
					continue
				}
				outputs++
				if err := askEthtool(h.Ethtool, dev)[option]; !conclusive(err) || errors.Is(err, host.ErrNotCaptured) {
					t.Errorf("%s: ethtool %s %s: %v", file, option, dev, err)
				}
			}
		}
	}
	if outputs < 300 {
		t.Errorf("only %d outputs of ethtool were parsed", outputs)
	}
	t.Logf("%d hosts, %d outputs of ethtool", len(files), outputs)
}
