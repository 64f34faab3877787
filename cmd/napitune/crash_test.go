package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/apply"
)

var (
	errKilled  = errors.New("the process is gone")
	errNoSpace = errors.New("no space left on device")
)

// fuse ends a process at one of its lasting steps: journal records, renamings and
// kernel writes. After it has blown, nothing the process does lasts.
type fuse struct {
	steps, at int // at: the step that blows it; 0 never
	after     bool
	torn      int // so many bytes of a record happen; -1 for none or all
	dead      bool
}

func (f *fuse) step(whole func() error, part func(n int)) error {
	if f == nil {
		return whole()
	}
	if f.dead {
		return errKilled
	}
	if f.steps++; f.steps != f.at {
		return whole()
	}
	f.dead = true
	if f.torn >= 0 && part != nil {
		part(f.torn)
	} else if f.after {
		if err := whole(); err != nil {
			return err
		}
	}
	return errKilled
}

// memDisk is a file system in memory that outlives the processes that use it.
type memDisk struct {
	files map[string][]byte
	// full makes the appends from this one on fail, after a few bytes.
	full, appends int
}

func (d *memDisk) process(f *fuse) apply.Files {
	put := func(name string, data []byte) { d.files[name] = append(d.files[name], data...) }
	return apply.Files{
		MkdirAll: func(string) error { return nil },
		Lock:     func(string, string) (func() error, error) { return func() error { return nil }, nil },
		ReadDir: func(dir string) ([]string, error) {
			var out []string
			for name := range d.files {
				if path.Dir(name) == dir {
					out = append(out, path.Base(name))
				}
			}
			slices.Sort(out)
			if out == nil {
				return nil, fs.ErrNotExist
			}
			return out, nil
		},
		ReadFile: func(name string) ([]byte, error) {
			data, ok := d.files[name]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return slices.Clone(data), nil
		},
		Append: func(name string, data []byte) error {
			return f.step(func() error {
				if d.appends++; d.full > 0 && d.appends >= d.full {
					put(name, data[:min(7, len(data))])
					return errNoSpace
				}
				put(name, data)
				return nil
			}, func(n int) { put(name, data[:min(n, len(data))]) })
		},
		Rename: func(from, to string) error {
			return f.step(func() error {
				data, ok := d.files[from]
				if !ok {
					return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
				}
				delete(d.files, from)
				d.files[to] = data
				return nil
			}, nil)
		},
		Remove: func(name string) error {
			return f.step(func() error { delete(d.files, name); return nil }, nil)
		},
	}
}

// open counts the journals that are not archived.
func (d *memDisk) open() int {
	n := 0
	for name := range d.files {
		if strings.HasSuffix(name, ".journal") {
			n++
		}
	}
	return n
}

// count is a number from the environment.
func count(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: it is a positive number", name, text)
	}
	return n
}

// chance makes the random numbers of a test repeatable: NAPITUNE_SEED.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(count(t, "NAPITUNE_SEED", int(time.Now().UnixNano())))
	t.Logf("NAPITUNE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
