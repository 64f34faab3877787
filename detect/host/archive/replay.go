package archive

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// maxSamples bounds the samples of a capture: one a second for an hour.
const maxSamples = 3600

// maxAnswers bounds the answers of all samples together, counting every entry
// of a listing.
const maxAnswers = 2 * maxMembers

// replay makes hosts of a capture of napitune.
func (b *bundle) replay() (*Capture, error) {
	var head header
	if err := json.Unmarshal(b.recorded[0].Data, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", headerFile, err)
	}
	if head.Format != formatVersion {
		return nil, fmt.Errorf("capture of format %d: this version reads format %d", head.Format, formatVersion)
	}
	if len(head.Samples) == 0 || len(head.Samples) > maxSamples {
		return nil, fmt.Errorf("%s: %d samples, want 1 to %d", headerFile, len(head.Samples), maxSamples)
	}
	members := map[string][]txtar.File{}
	for _, f := range b.recorded[1:] {
		sample, _, _ := strings.Cut(f.Name, "/")
		sample, _, _ = strings.Cut(sample, ".")
		members[sample] = append(members[sample], f)
	}
	c := &Capture{Kind: KindCapture, Comment: b.comment}
	state := recording{files: map[question]answer{}, calls: map[callKey]callResult{}}
	answers := int64(0)
	for i, s := range head.Samples {
		state.probes = nil
		sample := fmt.Sprintf("t%d", i)
		if err := state.apply(sample, members[sample]); err != nil {
			return nil, err
		}
		// Samples share what did not change, so that a small text could
		// unfold into a great many answers.
		if answers += state.size(); answers > maxAnswers {
			return nil, fmt.Errorf("more than %d answers in all samples", int64(maxAnswers))
		}
		c.Samples = append(c.Samples, state.host(s.Taken, b))
		c.Times = append(c.Times, s.Taken)
		c.Probes = append(c.Probes, state.probes)
	}
	c.Notes = b.allNotes()
	return c, nil
}

// recording is everything that was asked of one sample.
type recording struct {
	files  map[question]answer
	calls  map[callKey]callResult
	taken  time.Time
	probes json.RawMessage
}

func (r *recording) size() int64 {
	n := int64(len(r.files) + len(r.calls))
	for _, a := range r.files {
		n += int64(len(a.entries))
	}
	return n
}

// apply adds what the members of one sample say to the state before it.
func (r *recording) apply(sample string, members []txtar.File) error {
	contents := map[string][]byte{}
	for _, f := range members {
		contents[f.Name] = f.Data
	}
	encoded := map[string]bool{} // members that the index speaks of
	err := readLines(contents[sample+".index"], func(line indexLine) error { return r.index(line, contents, encoded) })
	if err != nil {
		return fmt.Errorf("%s.index: %w", sample, err)
	}
	for name, data := range contents {
		rest, ok := strings.CutPrefix(name, sample+"/")
		if !ok || encoded[name] {
			continue
		}
		if _, usable, err := cleanName(rest); err != nil || !usable {
			return errors.Join(fmt.Errorf("%s: the name cannot be used", shorten(name)), err)
		}
		r.files[question{opRead, rest}] = answer{data: data}
	}
	err = readLines(contents[sample+".calls"], func(line callLine) error {
		if line.Forget {
			delete(r.calls, line.callKey)
			return nil
		}
		r.calls[line.callKey] = line.callResult
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s.calls: %w", sample, err)
	}
	if probes := contents[sample+".probes"]; len(probes) > 0 {
		if !json.Valid(probes) {
			return fmt.Errorf("%s.probes: no JSON", sample)
		}
		r.probes = probes
	}
	return nil
}

func (r *recording) index(line indexLine, contents map[string][]byte, encoded map[string]bool) error {
	q := question{line.Op, line.Name}
	if !fs.ValidPath(q.name) || len(q.name) > maxName {
		return fmt.Errorf("%q is no path", shorten(q.name))
	}
	if line.Forget {
		delete(r.files, q)
		return nil
	}
	a := answer{target: line.Target, mode: line.Mode, entries: line.Entries, failed: line.Failed}
	switch line.Op {
	case opLink, opStat, opLstat:
	case opList:
		for _, e := range a.entries {
			if len(e) < 2 {
				return fmt.Errorf("%s: entry %q", shorten(q.name), e)
			}
		}
	case opRead:
		if a.failed != nil {
			break
		}
		text, ok := contents[line.Data]
		if !ok {
			return fmt.Errorf("%s: its content %q is not there", shorten(q.name), shorten(line.Data))
		}
		data, err := decode(text, line.Encoding)
		if err != nil {
			return fmt.Errorf("%s: %w", shorten(q.name), err)
		}
		a.data = data
		encoded[line.Data] = true
	default:
		return fmt.Errorf("unknown question %q", shorten(line.Op))
	}
	r.files[q] = a
	return nil
}

// host answers what was recorded, and host.ErrNotCaptured to everything else.
func (r *recording) host(taken time.Time, b *bundle) *host.Host {
	calls := replayed(maps.Clone(r.calls))
	return &host.Host{
		FS:        r.tree(b),
		Ident:     func() (host.Ident, error) { return recall[host.Ident](calls, callKey{Call: callIdent}) },
		Links:     func() ([]host.Link, error) { return recall[[]host.Link](calls, callKey{Call: callLinks}) },
		Processes: func() ([]host.Process, error) { return recall[[]host.Process](calls, callKey{Call: callProcesses}) },
		Ethtool: host.Ethtool{
			DriverInfo: perDevice[host.DriverInfo](calls, callDriver), Channels: perDevice[host.Channels](calls, callChannels),
			Rings: perDevice[host.Rings](calls, callRings), Coalesce: perDevice[host.Coalesce](calls, callCoalesce),
			Features: perDevice[host.Features](calls, callFeatures), RSS: perDevice[host.RSS](calls, callRSS),
			Stats: perDevice[host.Stats](calls, callStats),
			HashFields: func(dev, flow string) (string, error) {
				return recall[string](calls, callKey{Call: callHash, Dev: dev, Flow: flow})
			},
		},
		Netdev: host.Netdev{
			NAPIs:  func() ([]host.NAPI, error) { return recall[[]host.NAPI](calls, callKey{Call: callNAPIs}) },
			Queues: func() ([]host.Queue, error) { return recall[[]host.Queue](calls, callKey{Call: callQueues}) },
			QStats: func() ([]host.QStat, error) { return recall[[]host.QStat](calls, callKey{Call: callQStats}) },
		},
		Now: func() time.Time { return taken },
	}
}

type replayed map[callKey]callResult

func perDevice[T any](calls replayed, call string) func(string) (T, error) {
	return func(dev string) (T, error) { return recall[T](calls, callKey{Call: call, Dev: dev}) }
}

func recall[T any](calls replayed, key callKey) (T, error) {
	var zero T
	result, ok := calls[key]
	if !ok {
		return zero, notCaptured(strings.TrimSpace(key.Call + " " + key.Dev + " " + key.Flow))
	}
	if result.Failed != nil {
		return zero, result.Failed
	}
	var value T
	if err := json.Unmarshal(result.Value, &value); err != nil {
		return zero, fmt.Errorf("%s %s: %w: %w", key.Call, key.Dev, err, host.ErrInconclusive)
	}
	return value, nil
}

// tree lays the answers out as files. What contradicts itself (a file and a
// folder of one name, from a machine that changed while it was read) is noted.
func (r *recording) tree(b *bundle) *tree.Tree {
	t := tree.New()
	t.Missing, t.Strict = host.ErrNotCaptured, true
	questions := slices.SortedFunc(maps.Keys(r.files), func(p, q question) int {
		return cmp.Or(cmp.Compare(p.name, q.name), cmp.Compare(p.op, q.op))
	})
	r.storeLinks(t, questions)
	for _, store := range []func(*tree.Tree, question, answer) error{storeContent, storeMode, storeList, storeFailure} {
		for _, q := range questions {
			if err := store(t, q, r.files[q]); err != nil {
				b.note("%s %s skipped: %v", q.op, shorten(q.name), bare(err))
			}
		}
	}
	return t
}

// storeLinks repeats itself while a link changed where another one lies.
func (r *recording) storeLinks(t *tree.Tree, questions []question) {
	const rounds = 8
	for range rounds {
		settled := true
		for _, q := range questions {
			a := r.files[q]
			if q.op != opLink || a.failed != nil {
				continue
			}
			if target, err := t.ReadLink(q.name); err != nil || target != a.target {
				settled = t.Symlink(q.name, a.target) != nil && settled
			}
		}
		if settled {
			return
		}
	}
}

func storeContent(t *tree.Tree, q question, a answer) error {
	if q.op != opRead || a.failed != nil {
		return nil
	}
	return t.WriteFile(q.name, a.data)
}

func storeMode(t *tree.Tree, q question, a answer) error {
	if q.op != opStat && q.op != opLstat || a.failed != nil {
		return nil
	}
	if _, err := t.ReadLink(q.name); err == nil && q.op == opLstat {
		return nil // the link says so itself
	}
	return t.SetMode(q.name, a.mode)
}

func storeList(t *tree.Tree, q question, a answer) error {
	if q.op != opList || a.failed != nil {
		return nil
	}
	entries := make([]tree.Entry, len(a.entries))
	for i, e := range a.entries {
		entries[i] = tree.Entry{Name: e[1:], Type: entryTypes[e[0]]}
	}
	return t.SetEntries(q.name, entries)
}

// entryTypes are the letters of ls -l.
var entryTypes = map[byte]fs.FileMode{'d': fs.ModeDir, 'l': fs.ModeSymlink}

func entryLetter(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "d"
	case fs.ModeSymlink:
		return "l"
	}
	return "-"
}

func storeFailure(t *tree.Tree, q question, a answer) error {
	if a.failed == nil {
		return nil
	}
	op := map[string]tree.Op{opRead: tree.Read, opList: tree.List, opLink: tree.Link, opStat: tree.Stat, opLstat: tree.Stat}[q.op]
	return t.FailOp(op, q.name, a.failed)
}
