//go:build unix

package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/napitune/napitune/apply/disk"
)

// Whether a lock is held is seen without making, writing or refusing anything.
func TestHeld(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files := disk.Open(root)
	if holder, held, err := files.Held("lock"); err != nil || held || holder != "" {
		t.Errorf("no lock yet: %q, %v, %v", holder, held, err)
	}
	if _, err := os.Lstat(filepath.Join(root, "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made the file: %v", err)
	}
	release, err := files.Lock("lock", "napitune, process 4711")
	if err != nil {
		t.Fatal(err)
	}
	if holder, held, err := disk.Open(root).Held("lock"); err != nil || !held || holder != "napitune, process 4711" {
		t.Errorf("held: %q, %v, %v", holder, held, err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, held, err := files.Held("lock"); err != nil || held {
		t.Errorf("released: %v, %v", held, err)
	}
	// One who looks is no holder: the lock is had as soon as they are gone.
	look, err := os.Open(filepath.Join(root, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(look.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if _, held, err := files.Held("lock"); err != nil || held {
		t.Errorf("looked at: %v, %v", held, err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = look.Close()
	}()
	release, err = files.Lock("lock", "another")
	if err != nil {
		t.Fatalf("looked at: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
