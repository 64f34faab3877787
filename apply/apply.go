// Package apply carries out plans as transactions: everything is checked before
// the first write, every write is in a journal on disk before it is made, and
// whatever ends a transaction early (an error, a signal, kill -9, a full disk)
// leaves a journal from which the host is put back as it was. It undoes only
// what it did: a value that somebody else changed since is left alone and named.
//
// The package reaches the host only through a knob.View and a host.Writer that
// are handed to it, and its journal through Files. It knows no opinions: what a
// plan says is done or refused.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// Sentinels that the errors of this package wrap.
var (
	// ErrRefused: preflight found reasons not to begin; nothing was written.
	// The error is a *Refused with all of them.
	ErrRefused = errors.New("refused")
	// ErrLocked: another apply or rollback is under way.
	ErrLocked = errors.New("another transaction is under way")
	// ErrDrift: a setting was changed by somebody else while the transaction ran.
	ErrDrift = errors.New("changed by somebody else")
	// ErrNotTaken: the kernel or driver did not take a value.
	ErrNotTaken = errors.New("not taken")
	// ErrNoTransaction: there is no such transaction in this boot.
	ErrNoTransaction = errors.New("no such transaction")
	// ErrElsewhere: the transaction belongs to another network namespace.
	ErrElsewhere = errors.New("not of this network namespace")
	// ErrUnconfirmed: the deadline passed without a confirmation.
	ErrUnconfirmed = errors.New("not confirmed in time")
)

// Machine is the host as a transaction sees it.
type Machine struct {
	// View reads the host anew: it is called again after every write that
	// creates queues or interrupts.
	View func() (knob.View, error)
	// Origin identifies the host as it is now; see plan.Origin.
	Origin func() (plan.Origin, error)
	// Writer changes the host.
	Writer host.Writer
	// Owners lists who else writes settings at this moment; nil if nobody is
	// looked for.
	Owners func() ([]owner.Owner, error)
	// Privileges is what this process may do; nil if not known, which leaves
	// finding out to the writes.
	Privileges *Privileges
}

// Applier applies, confirms and rolls back transactions on one host. Several
// processes may do so; a lock keeps them apart.
type Applier struct {
	Machine
	// Files holds journals and history.
	Files Files
	// Dir is the directory of journals; each boot has its own below it, since
	// settings do not survive a boot either.
	Dir string
	// History is the file that keeps what was done, for people; "" keeps none.
	History string
	// Now is the clock of records; nil means time.Now.
	Now func() time.Time
	// Holder describes this process to another that finds the lock taken,
	// such as "napitune apply, PID 4711".
	Holder string
	// Unattended: the process is a service. Nobody is there to roll back what it
	// leaves half done when it is killed, so that the next service does; see Recover.
	Unattended bool
	// Version of the tool, for the journal.
	Version string
	// Log gets one line per write; nil discards.
	Log *slog.Logger
}

// Options of one apply.
type Options struct {
	// MaxDisruption is the worst a change may do to traffic. The zero value
	// allows changes that no packet notices.
	MaxDisruption knob.Disruption
	// SkipDisruptive leaves out what exceeds MaxDisruption instead of refusing
	// the whole plan.
	SkipDisruptive bool
	// Owners says by name what to do about those who write the same settings;
	// "" is for all who are not named.
	Owners map[string]Choice
	// ConfirmWithin, if positive, gives the transaction a deadline, counted from
	// its first record. An apply that is not done by then, with Verify and Replan,
	// is rolled back with ErrUnconfirmed; one that is done is left unconfirmed, and
	// must be confirmed until then or be rolled back by Applier.ConfirmBy or by a
	// timer that calls RollbackUnconfirmed.
	ConfirmWithin time.Duration
	// Arm is called with the transaction's ID before the first write, so that a
	// timer outside this process is running should the process or the
	// connection to the host die. An error stops the apply with nothing written.
	Arm func(id string, within time.Duration) error
	// Verify is called after the last write, for measuring; an error rolls back.
	Verify func(ctx context.Context) error
	// Replan makes a new plan of what had to wait for earlier changes, while
	// a plan is not complete; at most MaxRounds plans are carried out. nil
	// leaves the rest undone.
	Replan func(ctx context.Context) (plan.Plan, error)
	// LeaveOut, if set, is told of every change that the host does not take, and
	// the others are made all the same: half of a boot profile is better than
	// none. What could not be read back, or was half done, rolls back as ever.
	LeaveOut func(ref knob.Ref, err error)
	// Progress is called after every change.
	Progress func(Outcome)

	restores bool // see Applier.Restore
}

// MaxRounds bounds how often the rest of a plan is planned again. Queues first,
// then what hangs on them, makes two; the third is for drivers that change more
// than was asked.
const MaxRounds = 3

func (a *Applier) clock() func() time.Time {
	if a.Now == nil {
		return time.Now
	}
	return a.Now
}

func (a *Applier) log() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

// directory is where the journals of this boot are.
func (a *Applier) directory(o plan.Origin) (string, error) {
	if err := validID(o.BootID); err != nil {
		return "", errors.New("the host does not tell its boot ID, by which journals are kept apart")
	}
	return path.Join(a.Dir, o.BootID), nil
}

// lock takes the lock of this boot's directory.
func (a *Applier) lock(dir string) (func() error, error) {
	if err := a.Files.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	return a.Files.Lock(path.Join(dir, lockName), a.Holder)
}

// open finds the journal directory of this boot and takes its lock.
func (a *Applier) open() (origin plan.Origin, dir string, release func() error, err error) {
	if origin, err = a.Origin(); err != nil {
		return plan.Origin{}, "", nil, fmt.Errorf("identify the host: %w", err)
	}
	if dir, err = a.directory(origin); err != nil {
		return plan.Origin{}, "", nil, err
	}
	release, err = a.lock(dir)
	return origin, dir, release, err
}

// Apply carries out a plan. Whatever goes wrong after the first write, the host
// is rolled back before it returns; the error says what went wrong, the result
// what state the host is in. An error with an empty Result.ID means that nothing
// was begun.
func (a *Applier) Apply(ctx context.Context, p plan.Plan, o Options) (Result, error) {
	origin, dir, release, err := a.open()
	if err != nil {
		return Result{}, fmt.Errorf("apply: %w", err)
	}
	// The lock also goes with the process.
	defer func() { _ = release() }()
	all, err := a.load(dir, true)
	if err != nil {
		return Result{}, fmt.Errorf("apply: %w", err)
	}
	return a.apply(ctx, dir, origin, all, p, o)
}

// apply carries out a plan under the lock.
func (a *Applier) apply(ctx context.Context, dir string, origin plan.Origin, all []*transaction, p plan.Plan, o Options) (Result, error) {
	checked, err := a.preflight(origin, p, o, unfinished(local(all, origin)))
	if err != nil {
		return Result{}, fmt.Errorf("apply: %w", err)
	}
	if a.Unattended {
		if err := a.bury(dir, origin, all); err != nil {
			return Result{}, fmt.Errorf("apply: %w", err)
		}
	}
	r, err := a.begin(dir, origin, all, p, o)
	if err != nil {
		return Result{}, fmt.Errorf("apply: %w", err)
	}
	r.result.Skipped, r.result.Warnings = checked.skipped, checked.warnings
	if o.ConfirmWithin > 0 {
		// Whoever waits for an answer under the lock keeps everybody else from
		// rolling back.
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, r.t.deadline.Sub(a.clock()()), ErrUnconfirmed)
		defer stop()
	}
	cause := r.carryOut(ctx, p, checked)
	if cause == nil {
		return r.finish()
	}
	result, err := a.undo(r)
	result.Changes, result.Skipped = r.result.Changes, r.result.Skipped
	return result, errors.Join(fmt.Errorf("apply: %w", cause), err)
}

// begin puts the first record on disk.
func (a *Applier) begin(dir string, origin plan.Origin, all []*transaction, p plan.Plan, o Options) (*run, error) {
	number := 1
	for _, t := range all {
		number = max(number, t.number+1)
	}
	now := a.clock()()
	at := now.UTC()
	t := &transaction{
		id: fmt.Sprintf("%s-%03d", at.Format("20060102-150405"), number), number: number, at: at,
		origin: origin, profile: p.Profile, state: Journaled, keep: map[knob.Ref]string{}, foreign: map[knob.Ref]bool{}, left: map[knob.Ref]string{}, restores: o.restores,
	}
	if o.ConfirmWithin > 0 {
		// Not in UTC, which is without the monotonic clock: people who set the
		// machine's clock back do not mean to wait longer.
		t.deadline = now.Add(o.ConfirmWithin)
	}
	r := &run{a: a, dir: dir, o: o, t: t, j: a.journalOf(dir, t), result: Result{ID: t.id, State: Journaled}}
	err := r.j.append(record{
		Type: recordBegin, Version: journalVersion, Number: number, Tool: a.Version,
		Origin: &origin, Plan: &p, Deadline: t.deadline.UTC(), Restores: t.restores, Holder: a.Holder, Unattended: a.Unattended,
	})
	if err == nil && o.ConfirmWithin > 0 && o.Arm != nil {
		if armErr := o.Arm(t.id, o.ConfirmWithin); armErr != nil {
			err = fmt.Errorf("arm the timer that would roll back: %w", armErr)
		}
	}
	if err == nil {
		return r, nil
	}
	if removeErr := a.Files.Remove(r.j.name); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	return nil, fmt.Errorf("nothing was written: %w", err)
}

// run is a transaction under way.
type run struct {
	a      *Applier
	dir    string
	o      Options
	t      *transaction
	j      *journal
	view   knob.View
	result Result
	// wrote remembers by address what the transaction last saw, so that its own
	// side effects are not taken for somebody else's changes.
	wrote map[string]string
}

// carryOut does the plan in rounds.
func (r *run) carryOut(ctx context.Context, p plan.Plan, c checked) error {
	for round := 1; ; round++ {
		r.view, r.wrote = c.view, map[string]string{}
		for _, s := range c.steps {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", context.Cause(ctx))
			}
			if err := r.tolerate(s.change.Ref, r.change(s)); err != nil {
				return err
			}
		}
		if p.Complete || r.o.Replan == nil || round == MaxRounds {
			break
		}
		var err error
		if p, c, err = r.next(ctx); err != nil {
			return err
		}
		if len(c.steps) == 0 {
			break
		}
	}
	r.result.Complete = p.Complete
	if r.o.Verify != nil {
		if err := r.o.Verify(ctx); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
	}
	return r.settle()
}

// tolerate tells of a change that left its setting as it was, where that is
// wanted. Any other error stays one.
func (r *run) tolerate(ref knob.Ref, err error) error {
	var left *untouched
	if r.o.LeaveOut == nil || !errors.As(err, &left) {
		return err
	}
	r.o.LeaveOut(ref, err)
	return nil
}

// untouched is the error of a change whose setting has the value that it had,
// with the journal saying so.
type untouched struct{ err error }

func (u *untouched) Error() string { return u.err.Error() }

func (u *untouched) Unwrap() error { return u.err }

// next plans and checks the following round.
func (r *run) next(ctx context.Context) (plan.Plan, checked, error) {
	p, err := r.o.Replan(ctx)
	if err != nil {
		return p, checked{}, fmt.Errorf("plan again: %w", err)
	}
	if len(p.Changes) == 0 {
		return p, checked{}, nil
	}
	origin, err := r.a.Origin()
	if err != nil {
		return p, checked{}, fmt.Errorf("identify the host: %w", err)
	}
	c, err := r.a.preflight(origin, p, r.o, nil)
	if err != nil {
		var refused *Refused
		if errors.As(err, &refused) && refused.nothingLeft {
			return p, checked{}, nil
		}
		return p, checked{}, err
	}
	r.result.Skipped = append(r.result.Skipped, c.skipped...)
	for _, w := range c.warnings {
		if !slices.Contains(r.result.Warnings, w) {
			r.result.Warnings = append(r.result.Warnings, w)
		}
	}
	return p, c, r.j.append(record{Type: recordRound, Plan: &p})
}

// finish closes a transaction whose writes are all made.
func (r *run) finish() (Result, error) {
	r.t.state = Unconfirmed
	err := r.j.append(record{Type: recordApplied, Deadline: r.t.deadline.UTC()})
	if err == nil && r.o.ConfirmWithin <= 0 {
		if err = r.j.append(record{Type: recordConfirmed}); err == nil {
			r.t.state = Confirmed
		}
	}
	if err != nil {
		// A transaction that looks unfinished to every later command is no
		// state to leave a host in.
		result, undoErr := r.a.undo(r)
		result.Changes, result.Skipped = r.result.Changes, r.result.Skipped
		return result, errors.Join(fmt.Errorf("apply: %w", err), undoErr)
	}
	r.result.State, r.result.Deadline = r.t.state, r.t.deadline
	r.note(EventApplied)
	return r.result, nil
}

// note keeps an event in the history. That it could not be kept is a warning:
// the host is as the journal says.
func (r *run) note(what string) {
	if err := r.a.note(what, r.t, r.result); err != nil {
		r.result.Warnings = append(r.result.Warnings, err.Error())
	}
}

// describe names a change in messages.
func describe(ref knob.Ref, address string) string {
	if address == ref.String() || !strings.HasPrefix(address, "IRQ ") {
		return ref.String()
	}
	return ref.String() + " (" + address + ")"
}
