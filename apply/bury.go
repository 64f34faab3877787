package apply

import (
	"fmt"
	"path"
	"slices"

	"github.com/napitune/napitune/rules/plan"
)

// bury removes what services left of devices that are gone for good, and so can be
// neither rolled back nor restored: a host of containers makes such devices by the
// thousand, and /run is memory. What people did is theirs to look at.
func (a *Applier) bury(dir string, now plan.Origin, all []*transaction) error {
	for _, t := range local(all, now) {
		where := devices{was: t.origin, now: now}
		stays := func(e *entry) bool { return e.ref.Dev == "" || !where.forGood(e.ref.Dev) }
		if !t.unattended || t.unfinished() || t.newer() || len(t.entries) == 0 && !t.archived || slices.ContainsFunc(t.entries, stays) {
			continue
		}
		suffix := journalSuffix
		if t.archived {
			suffix = undoneSuffix
		}
		if err := a.Files.Remove(path.Join(dir, t.id+suffix)); err != nil {
			return fmt.Errorf("remove the journal of %s: %w", t.id, err)
		}
	}
	return nil
}
