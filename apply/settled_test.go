package apply

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/napitune/napitune/detect/host/hosttest"
	"github.com/napitune/napitune/detect/knob"
)

// What somebody sets after a rollback that came to its end is theirs, wherever a
// rollback before that one was killed.
func TestForeignAfterARollbackThatEnded(t *testing.T) {
	t.Parallel()
	const weight, ring, rps = "net.core.dev_weight", "eth0/ring.rx", "eth0/rx-1/rps.cpus"
	for at := 1; ; at++ {
		r := newRig(t, hosttest.Spec{Driver: "ice"})
		old := r.read(ring)
		applied, err := r.process(nil).Apply(background, r.plan(weight, "32", ring, "1024"), anything)
		if err != nil {
			t.Fatal(err)
		}
		f := &fuse{at: at, after: true, torn: -1}
		_, _ = r.process(f).Rollback(background, applied.ID)
		if len(r.disk.journals(undoneSuffix)) > 0 {
			return // killed after its end, if at all
		}
		r.write(weight, "99")
		result, err := r.process(nil).Rollback(background, applied.ID)
		if result.State == RolledBack {
			continue // killed when all was over
		}
		if err != nil || result.State != Dirty {
			t.Fatalf("killed after step %d: %s, %v", at, result.State, err)
		}
		r.write(rps, "2-3")
		r.write(weight, "64")
		result, err = r.process(nil).Rollback(background, applied.ID)
		if err != nil || result.State != RolledBack || r.read(rps) != "2-3" || r.read(ring) != old || r.read(weight) != "64" {
			t.Fatalf("killed after step %d (%s): %s, %v, RPS %q, ring %s: %+v", at, f.log[at-1], result.State, err, r.read(rps), r.read(ring), result.Restored)
		}
	}
}

// The same of an apply that was killed: what it wrote is somebody else's when the
// first rollback comes, and stays so.
func TestForeignAfterAKilledApply(t *testing.T) {
	t.Parallel()
	const ring, rps = "eth0/ring.rx", "eth0/rx-1/rps.cpus"
	for at := 1; ; at++ {
		r := newRig(t, hosttest.Spec{Driver: "ice"})
		f := &fuse{at: at, after: true, torn: -1}
		_, _ = r.process(f).Apply(background, r.plan(ring, "1024"), anything)
		if f.steps < at {
			return
		}
		if r.read(ring) != "1024" {
			continue
		}
		r.write(ring, "256")
		r.write(rps, "1")
		for _, cpus := range []string{"2-3", "0,2"} {
			result, err := r.process(nil).Rollback(background, "")
			if err != nil || result.State != Dirty || r.read(ring) != "256" {
				t.Fatalf("killed after step %d: %s, %v, ring %s", at, result.State, err, r.read(ring))
			}
			r.write(rps, cpus)
		}
		result, err := r.process(nil).Rollback(background, "")
		if err != nil || result.State != Dirty || r.read(rps) != "0,2" {
			t.Errorf("killed after step %d (%s): %s, %v, RPS %q: %+v", at, f.log[at-1], result.State, err, r.read(rps), result.Restored)
		}
	}
}

// What a rollback could not restore after a killed one is still the
// transaction's, though no record of the killed one tells the value; so it is
// where the rollback in between could not even read the host.
func TestLeftByAKilledRollback(t *testing.T) {
	t.Parallel()
	const ring, usecs = "eth0/ring.rx", "eth0/coalesce.rx-usecs"
	for name, blind := range map[string]bool{"not written": false, "not read": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hosttest.Spec{Driver: "ice"})
			r.write(usecs, "77")
			before := r.m.Dump()
			applied, err := r.process(nil).Apply(background, r.plan(ring, "1024"), anything)
			if err != nil {
				t.Fatal(err)
			}
			killed := errors.New("killed")
			r.gate = func(what string, do func() error) error {
				err := do()
				if strings.HasPrefix(what, "rings") {
					r.gate = nil
					r.write(usecs, "33")
					panic(killed)
				}
				return err
			}
			func() {
				a := r.process(nil)
				defer func() {
					if recover() != killed {
						t.Error("it was not killed")
					}
				}()
				_, _ = a.Rollback(background, applied.ID)
			}()
			clear(r.disk.locks)
			a := r.process(nil)
			if blind {
				a.View = func() (knob.View, error) { return knob.View{}, syscall.ENOMEM }
			}
			r.gate = func(string, func() error) error { return syscall.EIO }
			if result, err := a.Rollback(background, applied.ID); err == nil || result.State != Dirty {
				t.Fatalf("%s, %v", result.State, err)
			}
			r.gate = nil
			result, err := r.process(nil).Rollback(background, applied.ID)
			if err != nil || result.State != RolledBack || r.m.Dump() != before {
				t.Errorf("%s, %v, %s %s: %+v", result.State, err, usecs, r.read(usecs), result.Restored)
			}
		})
	}
}
