package apply

import (
	"context"
	"testing"
)

// A restoration that a crash left is told apart from what somebody applied.
func TestStatusTellsRestorations(t *testing.T) {
	t.Parallel()
	confirmed := 0
	for at := 1; ; at++ {
		r, _, _ := baseRig(t)
		disturb(r)
		f := &fuse{at: at, torn: -1}
		_, _ = r.process(f).Restore(context.Background(), r.plan(restored[1], "1-3", restored[2], "2"), anything)
		if !f.dead {
			break
		}
		r.disk.locks = map[string]string{}
		all, err := r.process(nil).Status()
		if err != nil || all[0].Restores || len(all) > 1 && !all[1].Restores {
			t.Errorf("died in step %d: %+v, %v", at, all, err)
		}
		if len(all) > 1 && all[1].State == Confirmed {
			confirmed++
		}
	}
	if confirmed == 0 {
		t.Error("no crash left a confirmed restoration: nothing was tested")
	}
}
