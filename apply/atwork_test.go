package apply

import (
	"slices"
	"testing"
)

// crashed is a machine on which a process died in the middle of an apply.
func crashed(t *testing.T) (r *rig, id string) {
	t.Helper()
	r = newRig(t, small)
	a := r.process(&fuse{at: 5, torn: -1})
	a.Holder = "napitune, process 1"
	result, err := a.Apply(background, smallPlan(r), anything)
	if err == nil || result.ID == "" {
		t.Fatalf("%+v, %v", result, err)
	}
	r.disk.locks = map[string]string{}
	return r, result.ID
}

func ids(t *testing.T, a *Applier) []string {
	t.Helper()
	// Reading what is unfinished must be in nobody's way.
	a.Files.Lock, a.Files.MkdirAll, a.Files.Append = nil, nil, nil
	open, err := a.Unfinished()
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, s := range open {
		out = append(out, s.ID)
	}
	return out
}

// What a crash left is told while another process holds the lock for something
// else, and not while one is rolling it back.
func TestUnfinishedBesideAnother(t *testing.T) {
	t.Parallel()
	r, id := crashed(t)
	if got := ids(t, r.process(nil)); !slices.Equal(got, []string{id}) {
		t.Errorf("nobody at work: %q", got)
	}
	release, err := r.process(nil).lock(testDir + "/" + testBoot) // as confirm, forget and the guard
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(t, r.process(nil)); !slices.Equal(got, []string{id}) {
		t.Errorf("another holds the lock: %q", got)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	looked := false
	r.gate = func(_ string, do func() error) error {
		looked = true
		if got := ids(t, r.process(nil)); len(got) > 0 {
			t.Errorf("at work: %q", got)
		}
		return do()
	}
	if result, err := r.process(nil).Rollback(background, id); err != nil || result.State != RolledBack || !looked {
		t.Errorf("%s, %v, looked %v", result.State, err, looked)
	}
}

// What ends or begins between two looks is neither told as left behind.
func TestUnfinishedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(r *rig, id string){
		"ended": func(r *rig, id string) {
			if _, err := r.process(nil).Rollback(background, id); err != nil {
				t.Error(err)
			}
		},
		"another began": func(r *rig, id string) {
			dir := testDir + "/" + testBoot + "/"
			first := r.disk.files[dir+id+journalSuffix]
			r.disk.files[dir+"20260102-030405-002"+journalSuffix] = first
			delete(r.disk.files, dir+id+journalSuffix)
		},
	} {
		r, id := crashed(t)
		a := r.process(nil)
		held := a.Files.Held
		a.Files.Held = func(lock string) (string, bool, error) {
			holder, is, err := held(lock)
			meanwhile(r, id)
			return holder, is, err
		}
		if got := ids(t, a); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}
