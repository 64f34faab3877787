package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/deadline"
	"github.com/napitune/napitune/detect/host"
)

// guard rolls back at the deadline of a transaction: this process while it
// lives and, where systemd runs the machine, a timer that outlives it.
type guard struct {
	e     env
	timer deadline.Guard
	// alone is why there is no timer, "" if there is to be one.
	alone string
	armed string // ID of the transaction that a timer guards
}

// newGuard finds out who can guard on this machine.
func newGuard(e env, h *host.Host) *guard {
	g := &guard{e: e, timer: deadline.Guard{Connect: e.Systemd}}
	if e.Systemd == nil {
		g.alone = "systemd cannot be asked"
		return g
	}
	if g.alone = deadline.Obstacle(h); g.alone != "" {
		return g
	}
	program, err := ownPath()
	if err != nil {
		g.alone = err.Error()
		return g
	}
	g.timer.Command = []string{program, "rollback", "--unconfirmed"}
	return g
}

// ownPath is where this program is found when the timer goes off: after an
// upgrade that is the new one, which reads the journals of the old.
func ownPath() (string, error) {
	program, err := os.Executable()
	if err == nil && !filepath.IsAbs(program) {
		err = fmt.Errorf("%q is no absolute path", program)
	}
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		return "", fmt.Errorf("own program not found: %w", err)
	}
	return program, nil
}

// arm starts the timer before the first write. A machine without one is no
// reason not to apply: this process guards then, and says that it is alone.
func (g *guard) arm(id string, within time.Duration) error {
	if g.alone == "" {
		if err := g.timer.Arm(id, within); err != nil {
			g.alone = err.Error()
		} else {
			g.armed = id
		}
	}
	if g.alone != "" {
		_, _ = fmt.Fprintf(g.e.Stderr, "napitune: no timer of systemd guards these changes (%s)\n", g.alone)
	}
	return nil
}

// settle takes the timer away when there is nothing left to guard. One that
// cannot be stopped finds that out by itself.
func (g *guard) settle(o options, r apply.Result) {
	if g.alone != "" || r.ID == "" || r.State != apply.Confirmed && r.State != apply.RolledBack && r.State != apply.Forgotten {
		return
	}
	if err := g.timer.Disarm(r.ID); err != nil {
		o.log.Debug("timer not stopped", "txn", r.ID, "err", err)
	}
}

// promise says who rolls back.
func (g *guard) promise() string {
	if g.armed != "" {
		return "by this process, or if it dies by systemd (" + deadline.Timer(g.armed) + ")"
	}
	return "by this process only: if it is killed (kill -9), nothing rolls back until napitune rollback is run"
}

// rollBackUnconfirmed is what the timer runs. That there is nothing to undo any
// more is no failure of the unit.
func rollBackUnconfirmed(c *cli.Context, e env) error {
	if c.NArg() == 0 {
		return errors.New("rollback --unconfirmed needs the ID of a transaction (napitune status lists them)")
	}
	return conclude(c, e, func(a *apply.Applier, id string) (apply.Result, error) {
		return insist(c.Context, e.Stderr, func() (apply.Result, error) { return a.RollbackUnconfirmed(c.Context, id) })
	},
		func(r apply.Result) int {
			if r.State == apply.Confirmed || r.State == apply.Forgotten {
				return exitDone
			}
			return r.RollbackExitCode()
		})
}

// insist tries again where another process keeps the host locked. An apply rolls
// back at its own deadline, so that one which still holds the lock after the
// first try was stopped, or waits for a device. Its end is worth waiting for:
// nobody comes after this one.
func insist(ctx context.Context, told io.Writer, try func() (apply.Result, error)) (apply.Result, error) {
	end := time.Now().Add(deadline.Patience)
	for tries := 1; ; tries++ {
		result, err := try()
		if !errors.Is(err, apply.ErrLocked) || ctx.Err() != nil || !time.Now().Before(end) {
			return result, err
		}
		// Told ever more seldom: a try takes minutes.
		if tries&(tries-1) == 0 {
			_, _ = fmt.Fprintf(told, "napitune: not rolled back yet: %v: tried %d times, trying again until %s. "+
				"If that process is stopped, kill -CONT lets it roll back, and after kill -9 this one does\n",
				err, tries, end.Local().Format(time.DateTime))
		}
	}
}
