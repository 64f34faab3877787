package apply

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host/archive"
)

// hostsDir is the directory of captured hosts, which are not part of the project.
func hostsDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir != "" {
		return dir
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("NAPITUNE_HOSTS is not set: CI must test the captured hosts")
	}
	t.Skip("NAPITUNE_HOSTS is not set: no captured hosts to test")
	return ""
}

// Identity and crash on every captured host whose settings are known.
func TestCapturedHosts(t *testing.T) {
	t.Parallel()
	rng := seeds(t)
	seen, applied, undone, kills := 0, 0, 0, 0
	err := filepath.WalkDir(hostsDir(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".tar.gz") {
			return err
		}
		c, err := archive.Open(path)
		if err != nil {
			return nil // package archive has its own tests
		}
		seen++
		for range 3 {
			r := rigOf(t, c.Samples)
			p := r.randomPlan(rng, 1, every)
			p.Changes = some(rng, p.Changes, 12)
			if len(p.Changes) == 0 {
				return nil
			}
			// Vectors of removed queues come back under other numbers.
			before := r.dump(changesChannels(p))
			result, err := r.process(nil).Apply(context.Background(), p, anything)
			switch {
			case err == nil:
				applied++
				if back, err := r.process(nil).Rollback(context.Background(), ""); err != nil || back.State != RolledBack {
					t.Errorf("%s: rollback: %s, %v\n%+v", filepath.Base(path), back.State, err, back.Restored)
				}
			case result.State == RolledBack:
				undone++
			default:
				t.Errorf("%s: apply: %s, %v", filepath.Base(path), result.State, err)
			}
			if diff := cmp.Diff(before, r.dump(changesChannels(p))); diff != "" {
				t.Errorf("%s: plan %s (-before +after):\n%s", filepath.Base(path), describePlan(p), diff)
			}
			kills += killOnce(t, rng, func() *rig { return rigOf(t, c.Samples) }, filepath.Base(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 || applied == 0 || kills == 0 {
		t.Errorf("%d hosts, %d plans applied, %d kills: nothing was tested", seen, applied, kills)
	}
	t.Logf("%d hosts, %d plans applied and rolled back, %d undone at once, %d kills", seen, applied, undone, kills)
}

// killOnce kills one apply at a random step.
func killOnce(t *testing.T, rng *rand.Rand, fresh func() *rig, name string) int {
	t.Helper()
	r := fresh()
	p := r.randomPlan(rng, 1, every)
	p.Changes = some(rng, p.Changes, 8)
	if len(p.Changes) == 0 {
		return 0
	}
	before := r.dump(changesChannels(p))
	f := &fuse{at: 1 + rng.IntN(3*len(p.Changes)), after: rng.IntN(2) == 0, torn: -1}
	_, _ = r.process(f).Apply(context.Background(), p, anything)
	recoverAll(t, r, before, changesChannels(p), func() string { return fmt.Sprintf("%s: killed at step %d, plan %s", name, f.at, describePlan(p)) })
	return 1
}
