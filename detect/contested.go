package detect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
)

// Contest is a setting that "napitune guard" brought back and then left to
// somebody else, who wrote it again.
type Contest struct {
	Ref knob.Ref
	// Want is the value of the profile, Present the one that it had when it was left.
	Want, Present string
	// By is the program that wrote it, "" if the kernel did not tell.
	By     string
	Reason string
	At     time.Time
}

// guardFile is where a guard leaves its state for other verbs (package
// apply/guard, Report), and guardSchema the form that is read here.
const (
	guardFile   = "run/napitune/guard.json"
	guardSchema = "napitune.guard/1"
)

// contested reads what a guard of this boot has left to others. A host without
// a guard contests nothing; so does a guard that has ended, and a capture that
// does not know of one.
func (c *collector) contested() {
	data, err := c.h.ReadFile(guardFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, host.ErrNotCaptured) {
		return
	}
	if err != nil {
		c.gap(guardFile, err)
		return
	}
	contests, boot, err := parseContests(data)
	if err != nil {
		c.gap(guardFile, err)
		return
	}
	if boot == c.s.Ident.BootID {
		c.s.Contests = contests
	}
}

// parseContests reads the state of a guard and the boot that it is of.
func parseContests(data []byte) (contests []Contest, boot string, err error) {
	var r struct {
		Schema, Boot string
		Ended        bool
		Left         []struct {
			Ref                       knob.Ref
			Want, Present, By, Reason string
			At                        time.Time
			Contested                 bool
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, "", fmt.Errorf("state of the guard: %w", err)
	}
	if r.Schema != guardSchema {
		return nil, "", fmt.Errorf("state of the guard: its form is %q and not %q", clip(r.Schema), guardSchema)
	}
	if r.Ended {
		return nil, r.Boot, nil
	}
	for _, l := range r.Left {
		if l.Contested {
			contests = append(contests, Contest{Ref: l.Ref, Want: l.Want, Present: l.Present, By: l.By, Reason: l.Reason, At: l.At})
		}
	}
	return contests, r.Boot, nil
}
