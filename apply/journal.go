package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// journalVersion is the form of the records. A reader undoes no newer ones: a
// transaction that it half understands it would half undo.
const journalVersion = 1

// errNewer is the damage of a journal that a newer version wrote.
var errNewer = errors.New("a newer napitune wrote it")

// The kinds of records, in the order in which a transaction writes them.
const (
	recordBegin     = "begin"     // origin and plan; nothing is written yet
	recordRound     = "round"     // the plan of a later round
	recordIntent    = "intent"    // on disk before a write
	recordDone      = "done"      // what was found after it
	recordApplied   = "applied"   // all writes are done
	recordConfirmed = "confirmed" // the transaction is to stay
	recordRollback  = "rollback"  // a rollback begins; what it will leave alone
	recordRestoring = "restoring" // on disk before a write of the rollback
	recordRestored  = "restored"  // what was found after it
	recordEnd       = "end"       // the rollback is over
	recordForgotten = "forgotten" // a person took over what was left
)

// record is one line of a journal.
type record struct {
	Type string    `json:"type"`
	At   time.Time `json:"at"`
	// Torn: the lines before this one that cannot be read are what a crash or
	// a full disk left of a record, and not damage.
	Torn bool `json:"torn,omitempty"`
	// begin and round
	Version  int          `json:"version,omitempty"`
	Number   int          `json:"number,omitempty"`
	Tool     string       `json:"tool,omitempty"`
	Origin   *plan.Origin `json:"origin,omitempty"`
	Plan     *plan.Plan   `json:"plan,omitempty"`
	Deadline time.Time    `json:"deadline,omitzero"`
	// Holder is what the process that wrote this left in the lock, with begin and
	// rollback: that tells what is at work from what a crash left.
	Holder string `json:"holder,omitempty"`
	// Unattended: see Applier.Unattended; with Holder.
	Unattended bool `json:"unattended,omitempty"`
	// Restores: see Applier.Restore.
	Restores bool `json:"restores,omitempty"`
	// intent, done, restoring and restored
	Seq     int               `json:"seq,omitempty"`
	Ref     *knob.Ref         `json:"ref,omitempty"`
	Address string            `json:"address,omitempty"`
	Before  string            `json:"before,omitempty"`
	After   string            `json:"after,omitempty"`
	Sides   map[string]string `json:"sides,omitempty"`
	NAPIs   []napiValues      `json:"napis,omitempty"`
	// done and restored
	Observed *string           `json:"observed,omitempty"` // nil: could not be read
	Verdict  Verdict           `json:"verdict,omitempty"`
	Error    string            `json:"error,omitempty"`
	Moved    map[string]string `json:"moved,omitempty"`
	Lost     []string          `json:"lost,omitempty"`
	// rollback: settings that somebody else changed, with the values they keep.
	Keep    map[string]string `json:"keep,omitempty"`
	Foreign []string          `json:"foreign,omitempty"`
	// end; with an error, the rollback ended before it looked at a setting
	State State             `json:"state,omitempty"`
	Left  map[string]string `json:"left,omitempty"` // what it could not restore, as its writes left it
	// Undone: see Result.Undone.
	Undone bool `json:"undone,omitempty"`
}

// checksum is CRC-32C, which finds every torn or zeroed tail that a crash leaves.
func checksum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// encodeRecord is one line: checksum, space, JSON.
func encodeRecord(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode journal record %s: %w", r.Type, err)
	}
	return fmt.Appendf(nil, "%08x %s\n", checksum(body), body), nil
}

// parseRecord reads one line without its end.
func parseRecord(line []byte) (record, error) {
	sum, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(sum) != 8 {
		return record{}, errors.New("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil {
		return record{}, fmt.Errorf("checksum %q: %w", sum, err)
	}
	if got := checksum(body); got != uint32(want) {
		return record{}, fmt.Errorf("checksum is %08x, the record says %08x", got, want)
	}
	// Another version may have settings that this one does not know.
	var in struct {
		record
		Ref  string `json:"ref"`
		Plan *struct {
			Profile string `json:"profile"`
		} `json:"plan"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return record{}, err
	}
	if in.Plan != nil {
		in.record.Plan = &plan.Plan{Profile: in.Plan.Profile}
	}
	if in.Ref != "" {
		ref, err := knob.ParseAddress(in.Ref)
		if err != nil {
			return record{}, err
		}
		in.record.Ref = &ref
	}
	return in.record, nil
}

// parseJournal reads the records of a journal. A record that a crash or a full
// disk cut short is only reported as torn, whether it is the last one or a later
// one vouches for it; other damage is an error, and the records that can be read
// are given all the same.
func parseJournal(data []byte) (records []record, torn bool, err error) {
	var errs, pending []error // pending: not known yet to be damage
	number := 0
	for len(data) > 0 {
		number++
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		data = rest
		if len(line) == 0 {
			continue
		}
		r, err := parseRecord(line)
		switch {
		case err == nil && ended:
			if !r.Torn {
				errs = append(errs, pending...)
			}
			pending = nil
			records = append(records, r)
		case len(data) == 0:
			// Fragments before a fragment are those of a disk that stayed full.
			return records, true, errors.Join(errs...)
		default:
			pending = append(pending, fmt.Errorf("line %d: %w", number, err))
		}
	}
	return records, false, errors.Join(append(errs, pending...)...)
}

// entry is one change with everything needed to undo it.
type entry struct {
	seq           int
	ref           knob.Ref
	before, after string
	sides         map[knob.Ref]string // settings that the write may overwrite, before it
	napis         []napiValues
	done          bool // the second record is there
	observed      *string
	verdict       Verdict
	failure       string
	moved         map[knob.Ref]string // sides that the write changed, after it
	lost          map[knob.Ref]bool   // sides that the write took away
	restoring     bool                // a rollback has begun to write here
	restored      bool
	settled       bool // a rollback came to its end since the write
}

// transaction is a journal as read.
type transaction struct {
	id       string
	number   int
	at       time.Time
	tool     string
	origin   plan.Origin
	profile  string // of the first round's plan
	entries  []*entry
	state    State
	deadline time.Time
	rolling  bool   // a rollback has begun
	holder   string // of the process that was last at work on it
	// unattended says whether that was a service.
	unattended bool
	keep       map[knob.Ref]string
	foreign    map[knob.Ref]bool
	left       map[knob.Ref]string // what rollbacks could not restore, as they left it
	damage     error               // what of the journal cannot be read
	torn       bool
	archived   bool // its file says that it is over
	restores   bool // made by Applier.Restore
	applied    bool // all its changes were made once
	undone     bool // what can be read of it is as it was
}

// newTransaction reads a transaction from the text of its journal. What cannot
// be read is its damage, and nobody else's.
func newTransaction(id string, data []byte) *transaction {
	records, torn, damage := parseJournal(data)
	t := &transaction{id: id, number: numberOf(id), state: Planned, keep: map[knob.Ref]string{}, foreign: map[knob.Ref]bool{}, left: map[knob.Ref]string{}, damage: damage, torn: torn}
	if len(records) > 0 && records[0].Type != recordBegin {
		t.damage = errors.Join(t.damage, fmt.Errorf("the first record is %q", records[0].Type))
	}
	for _, r := range records {
		t.damage = errors.Join(t.damage, t.take(r))
	}
	return t
}

// newer reports whether a newer version wrote the journal.
func (t *transaction) newer() bool { return errors.Is(t.damage, errNewer) }

// understood is an error for a journal in a directory that this version must
// not act on.
func (t *transaction) understood(dir string) error {
	if !t.newer() {
		return nil
	}
	return fmt.Errorf("journal %s: %w: %s", path.Join(dir, t.id+journalSuffix), t.damage, t.remedy())
}

// unknown says why a setting of the journal cannot be dealt with.
func (t *transaction) unknown() string {
	const text = "this version of napitune has no such setting"
	if t.tool == "" {
		return text
	}
	return text + ": the one that wrote the journal has (" + t.tool + ")"
}

// remedy says how to be rid of a transaction that is in the way.
func (t *transaction) remedy() string {
	again, forget := "napitune rollback "+t.id, "napitune forget "+t.id
	switch {
	case t.newer():
	case t.spent():
		return "nothing that its damaged journal still tells is left to undo: look at the host, then forget it (" + forget + ")"
	case t.state == Dirty:
		return "roll it back again (" + again + "), or leave the host as it is (" + forget + ")"
	default:
		return "roll it back first (" + again + ")"
	}
	by := ""
	if t.tool != "" {
		by = " (" + t.tool + ")"
	}
	return "roll it back with the newer napitune that wrote it" + by + ", or leave the host as it is (" + forget + ")"
}

// spent reports whether a damaged journal tells nothing more that a rollback could
// undo.
func (t *transaction) spent() bool {
	return t.damage != nil && !t.newer() && (t.undone || len(t.entries) == 0)
}

func (t *transaction) take(r record) error {
	switch r.Type {
	case recordBegin:
		t.number, t.at, t.tool, t.deadline, t.state = max(r.Number, t.number), r.At, r.Tool, r.Deadline, Journaled
		t.restores, t.holder, t.unattended = r.Restores, r.Holder, r.Unattended
		if r.Plan != nil {
			t.profile = r.Plan.Profile
		}
		if r.Origin != nil {
			t.origin = *r.Origin
		}
		if r.Version > journalVersion {
			return fmt.Errorf("%w: its form is %d and this version reads up to %d", errNewer, r.Version, journalVersion)
		}
	case recordRound:
	case recordIntent:
		return t.takeIntent(r)
	case recordDone, recordRestoring, recordRestored:
		return t.takeStep(r)
	case recordApplied:
		t.state, t.deadline, t.applied = Unconfirmed, r.Deadline, true
	case recordConfirmed:
		t.state = Confirmed
	case recordRollback:
		t.rolling, t.state, t.holder, t.unattended = true, Applying, r.Holder, r.Unattended
		return errors.Join(intoRefs(t.keep, r.Keep), intoSet(t.foreign, r.Foreign))
	case recordEnd:
		t.state, t.undone = r.State, r.Undone
		if r.Error != "" {
			// What a crash left open before it is still to be settled.
			return nil
		}
		// A rollback that came to its end knows what its writes did, and those that
		// a crash cut short before it: from then on an unknown value is somebody
		// else's.
		for _, e := range t.entries {
			e.restored, e.settled = e.restoring, true
		}
		// Another rollback looks anew at what is whose.
		clear(t.keep)
		clear(t.foreign)
		return intoRefs(t.left, r.Left)
	case recordForgotten:
		t.state = Forgotten
	default:
		return fmt.Errorf("%w: this version knows no record %q", errNewer, r.Type)
	}
	return nil
}

func (t *transaction) takeIntent(r record) error {
	if r.Ref == nil {
		return fmt.Errorf("intent %d names no setting", r.Seq)
	}
	e := &entry{
		seq: r.Seq, ref: *r.Ref, before: r.Before, after: r.After, napis: r.NAPIs,
		sides: map[knob.Ref]string{}, moved: map[knob.Ref]string{}, lost: map[knob.Ref]bool{},
	}
	t.entries, t.state = append(t.entries, e), Applying
	return intoRefs(e.sides, r.Sides)
}

func (t *transaction) takeStep(r record) error {
	at := slices.IndexFunc(t.entries, func(e *entry) bool { return e.seq == r.Seq })
	if at < 0 {
		// Its intent was lost to damage, which is reported already.
		if t.damage == nil {
			return fmt.Errorf("%s of change %d, which was never begun", r.Type, r.Seq)
		}
		return nil
	}
	e := t.entries[at]
	switch r.Type {
	case recordRestoring:
		e.restoring, e.restored = true, false
	case recordRestored:
		e.restored = true
	default:
		e.done, e.observed, e.verdict, e.failure = true, r.Observed, r.Verdict, r.Error
		return errors.Join(intoRefs(e.moved, r.Moved), intoSet(e.lost, r.Lost))
	}
	return nil
}

func intoRefs(to map[knob.Ref]string, from map[string]string) error {
	var errs []error
	for text, value := range from {
		ref, err := knob.ParseAddress(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		to[ref] = value
	}
	return errors.Join(errs...)
}

func intoSet(to map[knob.Ref]bool, from []string) error {
	var errs []error
	for _, text := range from {
		ref, err := knob.ParseAddress(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		to[ref] = true
	}
	return errors.Join(errs...)
}

func refTexts(from map[knob.Ref]string) map[string]string {
	if len(from) == 0 {
		return nil
	}
	out := make(map[string]string, len(from))
	for ref, value := range from {
		out[ref.String()] = value
	}
	return out
}

func setTexts(from map[knob.Ref]bool) []string {
	var out []string
	for ref := range from {
		out = append(out, ref.String())
	}
	slices.Sort(out)
	return out
}

// journal is the file of one transaction, open for appending.
type journal struct {
	files Files
	name  string
	now   func() time.Time
	// broken: the last append failed or the file ends in a torn record, so that
	// the next one must begin a line of its own.
	broken bool
}

func (j *journal) append(r record) error {
	r.At, r.Torn = j.now().UTC(), j.broken
	line, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if j.broken {
		line = append([]byte("\n"), line...)
	}
	if err := j.files.Append(j.name, line); err != nil {
		j.broken = true
		return fmt.Errorf("write journal %s: %w", j.name, err)
	}
	j.broken = false
	return nil
}

const (
	journalSuffix = ".journal" // present transactions: can be rolled back
	undoneSuffix  = ".undone"  // archived: rolled back or forgotten
	lockName      = "lock"
)

// validID keeps transaction IDs, which people type, from leaving the directory.
func validID(id string) error {
	if id == "" || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return fmt.Errorf("%q is not the ID of a transaction", id)
	}
	return nil
}

// numberOf is the number at the end of an ID: it counts even where the first
// record is lost. 0 if there is none.
func numberOf(id string) int {
	n, err := strconv.Atoi(id[strings.LastIndexByte(id, '-')+1:])
	if err != nil {
		return 0
	}
	return n
}

// load reads every transaction of this boot, oldest first, with those that were
// rolled back if archived. A journal that cannot be read is a damaged one, and
// does not keep the others from being read.
func (a *Applier) load(dir string, archived bool) ([]*transaction, error) {
	names, err := a.Files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list journals: %w", err)
	}
	var out []*transaction
	for _, name := range names {
		id, ok := strings.CutSuffix(name, journalSuffix)
		over := false
		if !ok && archived {
			id, ok = strings.CutSuffix(name, undoneSuffix)
			over = ok
		}
		if !ok || validID(id) != nil {
			continue
		}
		data, err := a.Files.ReadFile(path.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && !over {
			// It was archived since the names were read.
			if over = archived; !archived {
				continue
			}
			data, err = a.Files.ReadFile(path.Join(dir, id+undoneSuffix))
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		t := newTransaction(id, data)
		t.damage = errors.Join(t.damage, err)
		if t.archived = over; over && t.state != Forgotten {
			t.state = RolledBack
		}
		out = append(out, t)
	}
	slices.SortFunc(out, func(x, y *transaction) int {
		if x.number != y.number {
			return x.number - y.number
		}
		return strings.Compare(x.id, y.id)
	})
	return out, nil
}

// journalOf opens the journal of a transaction that is there already.
func (a *Applier) journalOf(dir string, t *transaction) *journal {
	return &journal{files: a.Files, name: path.Join(dir, t.id+journalSuffix), now: a.clock(), broken: t.torn}
}
