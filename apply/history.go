package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/napitune/napitune/detect/knob"
)

// What happened, in the history.
const (
	EventApplied    = "applied"
	EventConfirmed  = "confirmed"
	EventRolledBack = "rolled back"
	EventForgotten  = "forgotten"
	EventMeasured   = "measured"
)

// Event is one line of the history: what was done, why, and what it brought.
type Event struct {
	At       time.Time     `json:"at"`
	Boot     string        `json:"boot"`
	ID       string        `json:"id"`
	Event    string        `json:"event"`
	State    State         `json:"state"`
	Profile  string        `json:"profile,omitempty"`
	Changes  []Outcome     `json:"changes,omitempty"`
	Restored []Restoration `json:"restored,omitempty"`
	// Brought is what measuring found, as words with figures.
	Brought string `json:"brought,omitempty"`
}

// Note keeps what measuring a transaction found.
func (a *Applier) Note(id, brought string) error {
	origin, err := a.Origin()
	if err != nil {
		return fmt.Errorf("identify the host: %w", err)
	}
	return a.keep(Event{At: a.clock()().UTC(), Boot: origin.BootID, ID: id, Event: EventMeasured, Brought: brought})
}

func (a *Applier) note(what string, t *transaction, r Result) error {
	if t.restores {
		return nil // it brings back what the history tells already
	}
	e := Event{Profile: t.profile, At: a.clock()().UTC(), Boot: t.origin.BootID, ID: t.id, Event: what, State: r.State, Changes: r.Changes, Restored: r.Restored}
	return a.keep(e)
}

// longestHistory bounds the file of the history, and the one before it: a guard on a
// host of containers adds to it each minute. It has some hundred large transactions.
const (
	longestHistory = 4 << 20
	earlierSuffix  = ".1"
)

func (a *Applier) keep(e Event) error {
	if a.History == "" {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("history of %s: %w", e.ID, err)
	}
	old, err := a.Files.ReadFile(a.History)
	switch {
	case err != nil:
	case len(old) > longestHistory:
		if err := a.Files.Rename(a.History, a.History+earlierSuffix); err != nil {
			return fmt.Errorf("history of %s: %w", e.ID, err)
		}
	case len(old) > 0 && old[len(old)-1] != '\n':
		// A line that a full disk cut short must not swallow this one.
		line = append([]byte("\n"), line...)
	}
	if err := a.Files.MkdirAll(path.Dir(a.History)); err != nil {
		return fmt.Errorf("history of %s: %w", e.ID, err)
	}
	if err := a.Files.Append(a.History, append(line, '\n')); err != nil {
		return fmt.Errorf("history of %s: %w", e.ID, err)
	}
	return nil
}

// Events reads the history, oldest first, and how many of its lines are damaged.
// There is none yet where the file is missing.
func (a *Applier) Events() (events []Event, damaged int, err error) {
	if a.History == "" {
		return nil, 0, nil
	}
	var all []byte
	for _, name := range []string{a.History + earlierSuffix, a.History} {
		data, err := a.Files.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("read history: %w", err)
		}
		all = append(append(all, data...), '\n')
	}
	events, damaged = parseHistory(all)
	return events, damaged, nil
}

func parseHistory(data []byte) (events []Event, damaged int) {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		e, err := parseEvent(line)
		if err != nil {
			damaged++
			continue
		}
		events = append(events, e)
	}
	return events, damaged
}

// anyRef is a setting that another version may have written.
type anyRef struct{ knob.Ref }

func (r *anyRef) UnmarshalText(text []byte) (err error) {
	r.Ref, err = knob.ParseAddress(string(text))
	return err
}

// parseEvent reads one line. The history outlives versions and their settings.
func parseEvent(line []byte) (Event, error) {
	var in struct {
		Event
		Changes []struct {
			Outcome
			Ref anyRef `json:"ref"`
		} `json:"changes"`
		Restored []struct {
			Restoration
			Ref anyRef `json:"ref"`
		} `json:"restored"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return Event{}, err
	}
	for _, c := range in.Changes {
		c.Outcome.Ref = c.Ref.Ref
		in.Event.Changes = append(in.Event.Changes, c.Outcome)
	}
	for _, r := range in.Restored {
		r.Restoration.Ref = r.Ref.Ref
		in.Event.Restored = append(in.Event.Restored, r.Restoration)
	}
	return in.Event, nil
}
