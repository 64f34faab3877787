package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/disk"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files := disk.Open(root)
	if err := files.MkdirAll("run/napitune/boot"); err != nil {
		t.Fatal(err)
	}
	const name = "run/napitune/boot/1.journal"
	for _, line := range []string{"one\n", "two\n"} {
		if err := files.Append(name, []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := files.ReadFile(name); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := files.Rename(name, "run/napitune/boot/1.undone"); err != nil {
		t.Fatal(err)
	}
	if _, err := files.ReadFile(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name gives %v", err)
	}
	if names, err := files.ReadDir("run/napitune/boot"); err != nil || strings.Join(names, " ") != "1.undone" {
		t.Errorf("names %v, %v", names, err)
	}
	if err := files.Remove("run/napitune/boot/1.undone"); err != nil {
		t.Error(err)
	}
	if _, err := files.ReadDir("run/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory gives %v", err)
	}
}

func TestNamesStayBelowTheRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files := disk.Open(filepath.Join(root, "inner"))
	for _, name := range []string{"../outside", "a/../../outside", ""} {
		if err := files.Append(name, []byte("x")); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "outside"), filepath.Join(root, "inner", "link")); err != nil {
		t.Fatal(err)
	}
	if err := files.Append("link", []byte("x")); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := os.Lstat(filepath.Join(root, "outside")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file outside the root: %v", err)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	first, second := disk.Open(root), disk.Open(root)
	release, err := first.Lock("lock", "napitune apply, PID 4711")
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.Lock("lock", "napitune rollback, PID 4712")
	if !errors.Is(err, apply.ErrLocked) || !strings.Contains(err.Error(), "napitune apply, PID 4711") {
		t.Errorf("a second lock: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, err := second.Lock("lock", "short")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Lock("lock", ""); err == nil || !strings.HasSuffix(err.Error(), ": short") {
		t.Errorf("the holder is %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
