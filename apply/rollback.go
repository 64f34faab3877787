package apply

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Rollback undoes a transaction of this boot: the one with this ID, or with ""
// the last one that is not undone yet. It works for transactions that are
// confirmed, that a crash left unfinished, and that an earlier rollback could
// not finish; doing it again does nothing more. The end of the
// context does not interrupt it: half a rollback is worse than none. Errors of single settings are joined and stop nothing.
func (a *Applier) Rollback(_ context.Context, id string) (Result, error) {
	return a.rollback(id, func(*transaction) bool { return false })
}

// RollbackUnconfirmed undoes a transaction unless it was confirmed, and is what
// a timer runs when the deadline has passed. The result of a confirmed one says
// so and nothing is touched. It waits for lockPatience if another process is at
// work on the host, and ends with ErrLocked if that is not enough: a timer that
// gives up then leaves the host as it is for good.
func (a *Applier) RollbackUnconfirmed(_ context.Context, id string) (Result, error) {
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	// To look reads the whole host: not four times a second for minutes.
	for pause := confirmPoll; ; pause = min(2*pause, slowestPoll) {
		result, err := a.rollback(id, func(t *transaction) bool { return t.state == Confirmed })
		if !errors.Is(err, ErrLocked) {
			return result, err
		}
		select {
		case <-patience.C:
			return result, err
		case <-time.After(pause):
		}
	}
}

const (
	// lockPatience bounds how long a deadline waits for an apply that is still
	// under way; changes that reset links take seconds each.
	lockPatience = 2 * time.Minute
	slowestPoll  = 4 * time.Second
)

func (a *Applier) rollback(id string, leave func(*transaction) bool) (Result, error) {
	origin, dir, release, err := a.open()
	if err != nil {
		return Result{}, fmt.Errorf("roll back: %w", err)
	}
	defer func() { _ = release() }()
	t, err := a.pick(origin, dir, id)
	if err != nil {
		return Result{}, fmt.Errorf("roll back: %w", err)
	}
	if t.elsewhere(origin) {
		return Result{}, fmt.Errorf("roll back %s: %w: it was made in network namespace %s and this is %s: run it there (lsns -t net, nsenter --net)",
			t.id, ErrElsewhere, t.origin.NetNS, origin.NetNS)
	}
	if leave(t) || t.state == RolledBack || t.state == Forgotten {
		return Result{ID: t.id, State: t.state}, nil
	}
	if err := t.understood(dir); err != nil {
		return Result{}, fmt.Errorf("roll back %s: %w", t.id, err)
	}
	return a.undo(&run{a: a, dir: dir, t: t, j: a.journalOf(dir, t), result: Result{ID: t.id}})
}

// pick finds a transaction by ID, or the last one of this network namespace that
// can be rolled back.
func (a *Applier) pick(here plan.Origin, dir, id string) (*transaction, error) {
	if id != "" {
		if err := validID(id); err != nil {
			return nil, err
		}
	}
	all, err := a.load(dir, id != "")
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(all) {
		switch {
		case id == "" && t.elsewhere(here):
		case id == "" && t.state != Planned && t.state != RolledBack && t.state != Forgotten, t.id == id:
			return t, nil
		}
	}
	if id == "" {
		return nil, fmt.Errorf("%w: nothing was applied since the last boot", ErrNoTransaction)
	}
	return nil, fmt.Errorf("%w: %s (transactions of earlier boots ended with them)", ErrNoTransaction, id)
}

// undoing is a rollback under way.
type undoing struct {
	a      *Applier
	t      *transaction
	j      *journal
	view   knob.View
	where  devices
	later  []*transaction // transactions after this one
	known  map[knob.Ref]map[string]bool
	first  map[knob.Ref]string   // each setting's value before the transaction
	shared map[string][]knob.Ref // addresses that several settings of the journal have
	// upset are the addresses of settings that a write of this rollback may have
	// overwritten: what they are by now says nothing about others.
	upset  map[string]bool
	wrote  map[knob.Ref]string // what its writes left
	late   bool                // somebody changed a setting after the rollback began
	result Result
	errs   []error
	told   map[string]int          // index in result.Restored, by subject
	napis  map[string]restoredNAPI // by subject
}

// undo restores what a transaction changed, in reverse.
func (a *Applier) undo(r *run) (Result, error) {
	u := &undoing{a: a, t: r.t, j: r.j, view: r.view, upset: map[string]bool{}, wrote: map[knob.Ref]string{}, told: map[string]int{}, napis: map[string]restoredNAPI{}, result: Result{ID: r.t.id}}
	if r.t.damage != nil {
		u.errs = append(u.errs, fmt.Errorf("journal %s is damaged: what its lost records say is not undone: %w", r.t.id, r.t.damage))
	}
	if err := u.prepare(r.dir); err != nil {
		u.errs = append(u.errs, err)
		u.result.State = Dirty
		_ = u.j.append(record{Type: recordEnd, State: Dirty, Error: err.Error()})
		return u.result, fmt.Errorf("roll back %s: %w", r.t.id, errors.Join(u.errs...))
	}
	// The journal of a rollback helps the next one after a crash. That it
	// cannot be written, as on a full disk, must not keep the host changed.
	u.announce()
	for _, e := range slices.Backward(u.t.entries) {
		u.entry(e)
	}
	u.verify()
	u.finish(r)
	if err := errors.Join(u.errs...); err != nil {
		return u.result, fmt.Errorf("roll back %s: %w", r.t.id, err)
	}
	return u.result, nil
}

// announce journals what the rollback will leave alone.
func (u *undoing) announce() {
	u.late = false
	u.try(record{Type: recordRollback, Holder: u.a.Holder, Unattended: u.a.Unattended, Keep: refTexts(u.t.keep), Foreign: setTexts(u.t.foreign)})
}

// try journals what is worth having and not worth stopping for.
func (u *undoing) try(r record) {
	if err := u.j.append(r); err != nil && len(u.result.Warnings) == 0 {
		u.result.Warnings = append(u.result.Warnings, err.Error())
	}
}

// prepare reads the host and finds out what is somebody else's by now. What an
// apply knows of the host is good enough where it cannot be read again.
func (u *undoing) prepare(dir string) error {
	origin, err := u.a.Origin()
	if err != nil {
		u.errs = append(u.errs, fmt.Errorf("identify the host: %w", err))
	} else {
		u.where = devices{was: u.t.origin, now: origin}
	}
	if err := u.refresh(); err != nil && u.view.Host == nil {
		return err
	} else if err != nil {
		u.errs = append(u.errs, err)
	}
	if all, err := u.a.load(dir, false); err == nil {
		u.later = slices.DeleteFunc(local(all, origin), func(t *transaction) bool { return t.number <= u.t.number })
	}
	u.collect()
	for _, e := range u.t.entries {
		u.judgeSides(e)
		u.judge(e.ref, true)
	}
	return nil
}

func (u *undoing) refresh() error {
	view, err := u.a.View()
	if err != nil {
		return fmt.Errorf("read the host: %w", err)
	}
	u.view = view
	return nil
}

// address is what a setting of the journal is on the host by now. One whose
// device is gone shares its address with nothing.
func (u *undoing) address(ref knob.Ref) string {
	at, err := u.where.ref(ref)
	if err != nil {
		return "gone " + ref.String()
	}
	return address(u.view, at)
}

// collect lists every value that the transaction wrote or saw, by setting. For
// settings that are one interrupt the lists are one.
func (u *undoing) collect() {
	u.known = map[knob.Ref]map[string]bool{}
	u.first = map[knob.Ref]string{}
	u.shared = map[string][]knob.Ref{}
	began := func(ref knob.Ref, value string) {
		if _, ok := u.first[ref]; !ok {
			u.first[ref] = value
		}
	}
	for _, e := range u.t.entries {
		began(e.ref, e.before)
		for ref, value := range e.sides {
			began(ref, value)
		}
		u.learn(e.ref, e.before)
		u.learn(e.ref, e.after)
		if e.observed != nil {
			u.learn(e.ref, *e.observed)
		}
		for ref, value := range e.sides {
			u.learn(ref, value)
		}
		for ref, value := range e.moved {
			u.learn(ref, value)
		}
	}
	for ref, value := range u.t.left {
		u.learn(ref, value)
	}
}

// learn adds a value that is the transaction's or the rollback's.
func (u *undoing) learn(ref knob.Ref, value string) {
	if u.known[ref] == nil {
		u.known[ref] = map[string]bool{}
		at := u.address(ref)
		u.shared[at] = append(u.shared[at], ref)
	}
	u.known[ref][value] = true
}

func (u *undoing) knows(ref knob.Ref, value string) bool {
	for _, other := range u.shared[u.address(ref)] {
		if u.known[other][value] {
			return true
		}
	}
	return u.known[ref][value]
}

// judgeSides judges what the write of a change may have overwritten.
func (u *undoing) judgeSides(e *entry) {
	for ref := range e.sides {
		u.judge(ref, false)
	}
}

// judge reads a setting and finds out whether somebody else has changed it. That
// is asked before the first write, for there it is certain, and again right
// before each: others do not wait for the end of a rollback.
func (u *undoing) judge(ref knob.Ref, primary bool) (knob.State, bool) {
	state, ok := u.read(ref)
	if !ok || !state.Has() || u.upset[u.address(ref)] || u.knows(ref, state.Value) || u.unwitnessed(ref, state.Value) {
		return state, ok
	}
	if keep, kept := u.t.keep[ref]; kept && keep == state.Value {
		return state, ok
	}
	u.t.keep[ref], u.late = state.Value, true
	// A side effect that did not happen is not ours to undo, nor to report.
	if primary || u.touched(ref) {
		u.t.foreign[ref] = true
	}
	return state, ok
}

// touched reports whether a write is known to have changed the setting.
func (u *undoing) touched(ref knob.Ref) bool {
	return slices.ContainsFunc(u.t.entries, func(e *entry) bool {
		_, moved := e.moved[ref]
		return moved || e.ref == ref
	})
}

// unwitnessed reports whether an unknown value may come from a write, of the
// transaction or of an earlier rollback, whose end is not in the journal.
func (u *undoing) unwitnessed(ref knob.Ref, value string) bool {
	for _, e := range u.t.entries {
		if e.restoring && !e.restored {
			if _, side := e.sides[ref]; side {
				return true
			}
		}
		if e.settled || e.done && e.observed != nil {
			continue
		}
		if e.ref == ref && plausible(ref, e.after, value) {
			return true
		}
		if _, side := e.sides[ref]; side && u.happened(e) {
			return true
		}
	}
	return false
}

// happened reports whether a write without a second record was made, from the
// present value.
func (u *undoing) happened(e *entry) bool {
	state, ok := u.read(e.ref)
	return ok && state.Has() && state.Value != e.before
}

// plausible reports whether a driver may have made value out of wanted: rings
// and moderation are rounded to steps, up to the next power of two at most
// (mlx5e_ethtool_set_ringparam), with a least ring of 64 (i40e, ixgbe).
func plausible(ref knob.Ref, wanted, value string) bool {
	if !strings.HasPrefix(ref.Kind, "ring.") && !strings.HasPrefix(ref.Kind, "coalesce.") {
		return false
	}
	const leastRing = 64
	want, err := strconv.ParseInt(wanted, 10, 64)
	got, gotErr := strconv.ParseInt(value, 10, 64)
	return err == nil && gotErr == nil && got*2 > want && got <= max(2*want, leastRing)
}

// read gives the present state of a setting of the journal; false if it is of
// a kind that this version does not know.
func (u *undoing) read(ref knob.Ref) (knob.State, bool) {
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		return knob.State{Status: knob.Unsupported, Reason: u.t.unknown()}, false
	}
	at, err := u.where.ref(ref)
	if err != nil {
		return knob.State{Status: knob.Unsupported, Reason: err.Error()}, true
	}
	return kind.Read(u.view, at), true
}

// entry undoes one change: its setting, then what the write had overwritten.
func (u *undoing) entry(e *entry) {
	began := u.primary(e)
	u.sides(e)
	// Values of NAPIs hang on the device's: where that is somebody else's, so
	// may they be.
	if !u.t.foreign[e.ref] {
		u.restoreNAPIs(e)
	}
	if began {
		u.try(record{Type: recordRestored, Seq: e.seq})
	}
}

// primary undoes the write itself and reports whether the journal has a write of
// a rollback whose end is to be recorded.
func (u *undoing) primary(e *entry) bool {
	u.judgeSides(e)
	state, ok := u.judge(e.ref, true)
	switch {
	case u.t.foreign[e.ref]:
		u.tell(e.ref, Restoration{Want: e.before, Present: state.Value, Fate: FateForeign, By: u.author(e.ref, state.Value)})
		return false
	case !ok:
		u.tell(e.ref, Restoration{Want: e.before, Fate: FateFailed, Reason: state.Reason})
		return false
	case forgotten(e.ref, state):
		u.tell(e.ref, Restoration{Want: e.before, Fate: FateAlready, Reason: state.Reason})
		return false
	case !state.Has():
		reason := state.Reason
		if err := u.deviceGone(e.ref); err != nil {
			// What every setting of it says has causes that are none.
			reason = err.Error()
		}
		u.tell(e.ref, Restoration{Want: e.before, Fate: FateGone, Reason: reason})
		return false
	case state.Value == e.before, state.Value == u.first[e.ref]:
		// The second after a rollback that could not restore all: what this change
		// found was another change's doing, and is undone already.
		u.tell(e.ref, Restoration{Want: e.before, Present: state.Value, Fate: FateAlready})
		return e.restoring && !e.restored // by a write of one that a crash cut short
	}
	if u.late {
		// From now on the values are what this write makes of them, also for a
		// rollback that has to finish this one.
		u.announce()
	}
	u.try(record{Type: recordRestoring, Seq: e.seq})
	u.upsets(e)
	state, err := u.write(e.ref, e.before)
	if err != nil && u.fitTable(e) {
		state, err = u.write(e.ref, e.before)
	}
	u.upsets(e)
	u.outcome(e.ref, e.before, state, err)
	return true
}

// upsets notes what undoing a change may overwrite. Interrupts may have other
// numbers before than after it.
func (u *undoing) upsets(e *entry) {
	for ref := range e.sides {
		u.upset[u.address(ref)] = true
	}
}

// deviceGone says why the device of a setting is not there, nil if it is.
func (u *undoing) deviceGone(ref knob.Ref) error {
	at, err := u.where.ref(ref)
	if err == nil && at.Dev != "" && !slices.ContainsFunc(u.view.Devices, func(d knob.Dev) bool { return d.Name == at.Dev }) {
		err = absent(at.Dev)
	}
	return err
}

// forgotten reports whether a program kept the setting and has ended since: what
// it was told is undone by that.
func forgotten(ref knob.Ref, state knob.State) bool {
	kind, ok := knob.Lookup(ref.Kind)
	return ok && kind.Asked && state.Status == knob.Unsupported
}

// fitTable puts the old RSS table back before the number of queues: the core
// refuses fewer queues than a table names (net/ethtool/channels.c).
func (u *undoing) fitTable(e *entry) bool {
	ref := knob.Device(e.ref.Dev, tableKind)
	before, ok := e.sides[ref]
	if !ok || u.t.foreign[ref] {
		return false
	}
	if state, ok := u.read(ref); !ok || !state.Has() || state.Value == before {
		return false
	}
	_, err := u.write(ref, before)
	return err == nil
}

// sides restores what a write had overwritten, and what restoring it overwrote
// in turn: values that others set meanwhile are kept.
func (u *undoing) sides(e *entry) {
	refs := make([]knob.Ref, 0, len(e.sides))
	for ref := range e.sides {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(x, y knob.Ref) int {
		if s := int(stageOf(x)) - int(stageOf(y)); s != 0 {
			return s
		}
		return strings.Compare(x.String(), y.String())
	})
	for _, ref := range refs {
		want := e.sides[ref]
		state, ok := u.judge(ref, false)
		keep, kept := u.t.keep[ref]
		kept = kept && !u.beyond(ref, keep)
		if kept {
			want = keep
		}
		if kept && u.t.foreign[ref] {
			u.tell(ref, Restoration{Want: e.sides[ref], Present: keep, Fate: FateForeign, By: u.author(ref, keep)})
		}
		if !ok || !state.Has() || state.Value == want || !kept && state.Value == u.first[ref] {
			continue
		}
		state, err := u.write(ref, want)
		if !kept || err != nil || state.Value != want {
			u.outcome(ref, want, state, err)
		}
	}
}

// beyond reports whether an RSS table names queues that are not in use, now that
// the old number of queues is back: what somebody, or the driver of a NIC that
// was plugged in again, had made for more of them would send packets nowhere.
// Not every driver makes its table fit (virtio_net of 6.1, virtnet_set_channels).
func (u *undoing) beyond(ref knob.Ref, table string) bool {
	if ref.Kind != tableKind || u.view.Host == nil || u.view.Host.Ethtool.RSS == nil {
		return false
	}
	at, err := u.where.ref(ref)
	if err != nil {
		return false
	}
	rss, err := u.view.Host.Ethtool.RSS(at.Dev)
	slots, parseErr := knob.ParseTable(table)
	return err == nil && parseErr == nil && len(slots) > 0 && rss.RxRings > 0 && int(slices.Max(slots)) >= rss.RxRings
}

func stageOf(ref knob.Ref) knob.Stage {
	if kind, ok := knob.Lookup(ref.Kind); ok {
		return kind.Stage
	}
	return knob.StageAffinity
}

// write sets one setting and tells what it is then. It reads the host anew where
// that creates queues.
func (u *undoing) write(ref knob.Ref, value string) (knob.State, error) {
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		return knob.State{}, fmt.Errorf("%s: %s", ref, u.t.unknown())
	}
	at, err := u.where.ref(ref)
	if err != nil {
		return knob.State{}, err
	}
	if !u.resetTable(at, value) {
		err = kind.Write(u.view, u.a.Writer, at, value)
		u.a.log().Info("restore", "knob", ref.String(), "new", value, "txn", u.t.id, "err", err)
		if len(kind.Clobbers) > 0 {
			err = errors.Join(err, u.refresh())
		}
	}
	state, _ := u.read(ref)
	if state.Has() {
		u.learn(ref, state.Value)
		u.wrote[ref] = state.Value
	}
	return state, err
}

// resetTable gives an RSS table back to the driver where that makes the old
// table: written by hand it would count as the user's, stay as it is when the
// number of queues changes and forbid fewer of them (net/ethtool/ioctl.c
// ethtool_set_rxfh, net/ethtool/channels.c). The kernel does not tell whose a
// table is, so the even one is taken for the driver's.
func (u *undoing) resetTable(at knob.Ref, value string) bool {
	if at.Kind != tableKind || u.a.Writer.SetRSS == nil || u.view.Host == nil || u.view.Host.Ethtool.RSS == nil {
		return false
	}
	rss, err := u.view.Host.Ethtool.RSS(at.Dev)
	if err != nil || value != knob.EvenTable(len(rss.Table), rss.RxRings) {
		return false
	}
	err = u.a.Writer.SetRSS(at.Dev, nil)
	u.a.log().Info("restore the driver's", "knob", at.String(), "new", value, "txn", u.t.id, "err", err)
	kind, ok := knob.Lookup(tableKind)
	return err == nil && ok && kind.Read(u.view, at).Value == value
}

const tableKind = "rss.table"

// outcome judges what reading back showed.
func (u *undoing) outcome(ref knob.Ref, want string, state knob.State, err error) {
	r := Restoration{Want: want, Present: state.Value, Fate: FateRestored}
	switch {
	case err != nil:
		r.Fate, r.Reason = FateFailed, err.Error()
	case !state.Has():
		r.Fate, r.Reason = FateFailed, state.Reason
	case state.Value != want:
		r.Fate, r.Reason = FateFailed, "the host made another value of it"
	}
	u.tell(ref, r)
}

// tell keeps the last word on a setting.
func (u *undoing) tell(ref knob.Ref, r Restoration) {
	r.Ref = ref
	at, ok := u.told[r.Subject()]
	if !ok {
		u.told[r.Subject()] = len(u.result.Restored)
		u.result.Restored = append(u.result.Restored, r)
		return
	}
	if r.Fate == FateAlready && u.result.Restored[at].Fate == FateRestored {
		return
	}
	u.result.Restored[at] = r
}

// author names the later transaction that wrote a value.
func (u *undoing) author(ref knob.Ref, value string) string {
	at, err := u.where.ref(ref)
	if err != nil {
		return ""
	}
	return writtenBy(u.later, u.where.now, at, value)
}

// writtenBy names the last transaction that left a value at a present address.
func writtenBy(transactions []*transaction, now plan.Origin, at knob.Ref, value string) string {
	for _, t := range slices.Backward(transactions) {
		where := devices{was: t.origin, now: now}
		for _, e := range t.entries {
			if e.observed == nil || *e.observed != value {
				continue
			}
			if is, err := where.ref(e.ref); err == nil && is == at {
				return t.id
			}
		}
	}
	return ""
}

// verify compares every setting of the journal with its value before the
// transaction. Nothing is taken on trust, not even what was read back before.
func (u *undoing) verify() {
	earliest := map[string]string{} // by address: one interrupt may be several settings
	original := map[knob.Ref]string{}
	created := map[knob.Ref]bool{}
	var order []knob.Ref
	wiped := map[string]bool{} // devices whose settings were recorded whole
	first := func(ref knob.Ref, value string) {
		if _, ok := original[ref]; ok {
			return
		}
		at := u.address(ref)
		if _, ok := earliest[at]; !ok {
			earliest[at] = value
		}
		original[ref] = earliest[at]
		order = append(order, ref)
		created[ref] = wiped[ref.Dev]
	}
	for _, e := range u.t.entries {
		first(e.ref, e.before)
		for ref, value := range e.sides {
			first(ref, value)
		}
		if stageOf(e.ref) == knob.StageChannels {
			wiped[e.ref.Dev] = true
		}
	}
	slices.SortFunc(order, func(x, y knob.Ref) int { return strings.Compare(x.String(), y.String()) })
	for _, ref := range order {
		state, ok := u.read(ref)
		_, kept := u.t.keep[ref]
		switch {
		case ok && state.Has() && state.Value == original[ref], kept, ok && forgotten(ref, state):
		case created[ref]:
			// A queue that the transaction made is gone again, or has what the
			// kernel gave it.
			u.forget(ref)
		case u.deviceGone(ref) != nil:
			// The change that recorded it says so.
		case !ok:
			u.tell(ref, Restoration{Want: original[ref], Fate: FateFailed, Reason: state.Reason})
		case !state.Has():
			u.tell(ref, Restoration{Want: original[ref], Fate: FateGone, Reason: state.Reason})
		default:
			at, told := u.told[ref.String()]
			if !told || u.result.Restored[at].Fate != FateFailed {
				u.tell(ref, Restoration{Want: original[ref], Present: state.Value, Fate: FateFailed, Reason: "it does not have its old value"})
			}
		}
	}
	u.verifyNAPIs()
}

const madeByUs = "its queue was made by the transaction"

// forget takes back the word on a setting whose queue is gone as it should be.
func (u *undoing) forget(ref knob.Ref) {
	if at, ok := u.told[ref.String()]; ok {
		r := &u.result.Restored[at]
		r.Fate, r.Reason = FateAlready, madeByUs
	}
}

// finish says in what state the host is, and archives the journal of one that
// is as it was.
func (u *undoing) finish(r *run) {
	u.result.State = RolledBack
	if len(u.errs) > 0 {
		u.result.State = Dirty
	}
	u.result.Undone = u.t.damage != nil && len(u.errs) == 1 // the damage itself
	left := map[knob.Ref]string{}
	for _, one := range u.result.Restored {
		switch one.Fate {
		case FateForeign, FateGone, FateFailed:
			u.result.State, u.result.Undone = Dirty, false
		}
		if one.Fate == FateFailed {
			u.errs = append(u.errs, fmt.Errorf("%s is %q and was %q: %s", one.Subject(), one.Present, one.Want, one.Reason))
			if value, ok := u.wrote[one.Ref]; ok {
				left[one.Ref] = value
			}
		}
	}
	u.t.state = u.result.State
	u.try(record{Type: recordEnd, State: u.result.State, Left: refTexts(left), Undone: u.result.Undone})
	if u.result.State == RolledBack {
		name := path.Join(r.dir, u.t.id)
		if err := u.a.Files.Rename(name+journalSuffix, name+undoneSuffix); err != nil {
			u.result.Warnings = append(u.result.Warnings, fmt.Sprintf("archive journal: %v", err))
		}
	}
	if err := u.a.note(EventRolledBack, u.t, u.result); err != nil {
		u.result.Warnings = append(u.result.Warnings, err.Error())
	}
}
