package archive

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// Recorder stands between a machine and whoever reads it and keeps every
// question with its answer, errors included, so that a capture holds by
// construction what the code reads. Addresses, names and serial numbers are
// scrubbed before they are kept. It is safe for concurrent use.
type Recorder struct {
	inner *host.Host

	mu      sync.Mutex
	scrub   *scrubber
	samples []*recording
}

// NewRecorder records h, starting with sample 0. It reads the host name and
// boot id of h once, to know what to scrub.
func NewRecorder(h *host.Host) *Recorder {
	r := &Recorder{inner: h, scrub: newScrubber()}
	r.scrub.learn(h)
	r.NextSample()
	return r
}

// NextSample starts the next sample: t1 after t0.
func (r *Recorder) NextSample() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, &recording{files: map[question]answer{}, calls: map[callKey]callResult{}})
}

// SetProbes keeps the probe counters of a sample, which must exist. They are
// written as they are: they must hold no secrets.
func (r *Recorder) SetProbes(sample int, raw json.RawMessage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sample < 0 || sample >= len(r.samples) {
		return fmt.Errorf("probes of sample %d: only %d samples", sample, len(r.samples))
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return fmt.Errorf("probes of sample %d: %w", sample, err)
	}
	r.samples[sample].probes = compact.Bytes()
	return nil
}

// Names of the functions of host.Host in captures.
const (
	callIdent     = "ident"
	callLinks     = "links"
	callProcesses = "processes"
	callDriver    = "ethtool.driver"
	callChannels  = "ethtool.channels"
	callRings     = "ethtool.rings"
	callCoalesce  = "ethtool.coalesce"
	callFeatures  = "ethtool.features"
	callRSS       = "ethtool.rss"
	callStats     = "ethtool.stats"
	callHash      = "ethtool.hash"
	callNAPIs     = "netdev.napis"
	callQueues    = "netdev.queues"
	callQStats    = "netdev.qstats"
)

// Host returns the machine as seen through the recorder. It gives the caller
// what the machine said, not what is kept. Functions that the machine has not
// give host.ErrNotCaptured.
func (r *Recorder) Host() *host.Host {
	in := r.inner
	return &host.Host{
		FS:        recordingFS{r},
		Ident:     recordCall(r, callKey{Call: callIdent}, in.Ident, r.cleanIdent),
		Links:     recordCall(r, callKey{Call: callLinks}, in.Links, asItIs),
		Processes: recordCall(r, callKey{Call: callProcesses}, in.Processes, r.cleanProcesses),
		Ethtool: host.Ethtool{
			DriverInfo: recordDevice(r, callDriver, in.Ethtool.DriverInfo, asItIs),
			Channels:   recordDevice(r, callChannels, in.Ethtool.Channels, asItIs),
			Rings:      recordDevice(r, callRings, in.Ethtool.Rings, asItIs),
			Coalesce:   recordDevice(r, callCoalesce, in.Ethtool.Coalesce, asItIs),
			Features:   recordDevice(r, callFeatures, in.Ethtool.Features, asItIs),
			RSS:        recordDevice(r, callRSS, in.Ethtool.RSS, cleanRSS),
			Stats:      recordDevice(r, callStats, in.Ethtool.Stats, asItIs),
			HashFields: r.hashFields,
		},
		Netdev: host.Netdev{
			NAPIs:  recordCall(r, callKey{Call: callNAPIs}, in.Netdev.NAPIs, asItIs),
			Queues: recordCall(r, callKey{Call: callQueues}, in.Netdev.Queues, asItIs),
			QStats: recordCall(r, callKey{Call: callQStats}, in.Netdev.QStats, asItIs),
		},
		Now: r.now,
	}
}

// current is the sample being recorded; the caller holds the lock.
func (r *Recorder) current() *recording { return r.samples[len(r.samples)-1] }

// now passes the time on; the first of a sample is its time.
func (r *Recorder) now() time.Time {
	if r.inner.Now == nil {
		return time.Time{}
	}
	t := r.inner.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.current(); s.taken.IsZero() {
		s.taken = t.Round(0).UTC()
	}
	return t
}

func (r *Recorder) hashFields(dev, flow string) (string, error) {
	if r.inner.Ethtool.HashFields == nil {
		return "", notCaptured(callHash)
	}
	fields, err := r.inner.Ethtool.HashFields(dev, flow)
	keepCall(r, callKey{Call: callHash, Dev: dev, Flow: flow}, fields, err)
	return fields, err
}

func recordCall[T any](r *Recorder, key callKey, call func() (T, error), clean func(T) T) func() (T, error) {
	if call == nil {
		return func() (zero T, err error) { return zero, notCaptured(key.Call) }
	}
	return func() (T, error) {
		value, err := call()
		keepCall(r, key, clean(value), err)
		return value, err
	}
}

func recordDevice[T any](r *Recorder, name string, call func(string) (T, error), clean func(T) T) func(string) (T, error) {
	if call == nil {
		return func(string) (zero T, err error) { return zero, notCaptured(name) }
	}
	return func(dev string) (T, error) {
		value, err := call(dev)
		keepCall(r, callKey{Call: name, Dev: dev}, clean(value), err)
		return value, err
	}
}

func keepCall[T any](r *Recorder, key callKey, value T, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key.Dev = r.scrub.name(key.Dev)
	result := callResult{Failed: failureOf(err, r.scrub.words)}
	if err == nil {
		raw, failed := json.Marshal(value)
		if failed != nil {
			result.Failed = failureOf(failed, r.scrub.words)
		} else {
			result.Value = r.cleanCall(key.Call, raw)
		}
	}
	r.current().calls[key] = result
}

// cleanCall scrubs addresses from a result, except where versions look like
// addresses.
func (r *Recorder) cleanCall(call string, raw []byte) []byte {
	if call == callDriver || call == callIdent {
		return raw
	}
	return bytes.Clone(r.scrub.text(raw))
}

func asItIs[T any](value T) T { return value }

func (r *Recorder) cleanIdent(id host.Ident) host.Ident {
	r.mu.Lock()
	defer r.mu.Unlock()
	id.BootID = r.scrub.bootID(id.BootID)
	return id
}

func (r *Recorder) cleanProcesses(list []host.Process) []host.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	list = slices.Clone(list)
	for i := range list {
		list[i].Args = r.scrub.arguments(list[i].Comm, strings.Fields(list[i].Args))
	}
	return list
}

// cleanRSS drops the hash key: it lets others aim flows at one queue.
func cleanRSS(rss host.RSS) host.RSS {
	rss.Key = nil
	return rss
}

// keepFile keeps the answer to one question about files.
func (r *Recorder) keepFile(op, name string, a answer, err error) {
	if !fs.ValidPath(name) {
		return // refused by every file system in the same way
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a.failed = failureOf(err, r.scrub.words)
	a.target = r.scrub.name(a.target)
	for i, e := range a.entries {
		a.entries[i] = e[:1] + r.scrub.name(e[1:])
	}
	slices.SortFunc(a.entries, func(x, y string) int { return strings.Compare(x[1:], y[1:]) })
	if op == opRead && err == nil {
		clean, keep := r.scrub.file(name, a.data)
		if !keep {
			return
		}
		a.data = bytes.Clone(clean)
	}
	r.current().files[question{op, r.scrub.name(name)}] = a
}

// recordingFS passes questions about files on.
type recordingFS struct{ r *Recorder }

func (f recordingFS) inner() (fs.FS, error) {
	if f.r.inner.FS == nil {
		return nil, host.ErrNotCaptured
	}
	return f.r.inner.FS, nil
}

// ReadFile reads a file of the machine.
func (f recordingFS) ReadFile(name string) ([]byte, error) {
	inner, err := f.inner()
	if err != nil {
		return nil, &fs.PathError{Op: opRead, Path: name, Err: err}
	}
	data, err := fs.ReadFile(inner, name)
	f.r.keepFile(opRead, name, answer{data: data}, err)
	return data, err
}

// ReadDir lists a folder of the machine. Links in it are kept with their targets.
func (f recordingFS) ReadDir(name string) ([]fs.DirEntry, error) {
	inner, err := f.inner()
	if err != nil {
		return nil, &fs.PathError{Op: opList, Path: name, Err: err}
	}
	entries, err := fs.ReadDir(inner, name)
	var a answer
	for _, e := range entries {
		a.entries = append(a.entries, entryLetter(e.Type())+e.Name())
		if e.Type() == fs.ModeSymlink {
			_, _ = f.ReadLink(strings.TrimPrefix(name+"/"+e.Name(), "./"))
		}
	}
	f.r.keepFile(opList, name, a, err)
	return entries, err
}

// ReadLink returns the target of a link of the machine.
func (f recordingFS) ReadLink(name string) (string, error) {
	inner, err := f.inner()
	if err != nil {
		return "", &fs.PathError{Op: opLink, Path: name, Err: err}
	}
	target, err := fs.ReadLink(inner, name)
	f.r.keepFile(opLink, name, answer{target: target}, err)
	return target, err
}

// Stat describes what a name of the machine leads to.
func (f recordingFS) Stat(name string) (fs.FileInfo, error) { return f.stat(opStat, name, fs.Stat) }

// Lstat describes a name of the machine, which may be a link.
func (f recordingFS) Lstat(name string) (fs.FileInfo, error) { return f.stat(opLstat, name, fs.Lstat) }

func (f recordingFS) stat(op, name string, ask func(fs.FS, string) (fs.FileInfo, error)) (fs.FileInfo, error) {
	inner, err := f.inner()
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	info, err := ask(inner, name)
	var a answer
	if err == nil {
		a.mode = info.Mode() & (fs.ModeType | fs.ModePerm)
		if a.mode.Type() == fs.ModeSymlink {
			_, _ = f.ReadLink(name)
		}
	}
	f.r.keepFile(op, name, a, err)
	return info, err
}

// Open reads a file or folder of the machine at once and hands out the copy.
func (f recordingFS) Open(name string) (fs.File, error) {
	inner, err := f.inner()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	info, err := fs.Stat(inner, name)
	if err == nil && info.IsDir() {
		entries, err := f.ReadDir(name)
		if err != nil {
			return nil, err
		}
		return &openedFolder{info: info, entries: entries}, nil
	}
	data, failed := f.ReadFile(name)
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	return &openedFile{Reader: bytes.NewReader(data), info: info}, nil
}

// openedFile is a file that was read when it was opened.
type openedFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *openedFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openedFile) Close() error               { return nil }

// openedFolder is a folder that was listed when it was opened.
type openedFolder struct {
	info    fs.FileInfo
	entries []fs.DirEntry
}

func (f *openedFolder) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openedFolder) Close() error               { return nil }

func (f *openedFolder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: opRead, Path: f.info.Name(), Err: tree.ErrIsDir}
}

func (f *openedFolder) ReadDir(count int) ([]fs.DirEntry, error) {
	if count <= 0 {
		count = len(f.entries)
	} else if len(f.entries) == 0 {
		return nil, io.EOF
	}
	part := f.entries[:min(count, len(f.entries))]
	f.entries = f.entries[len(part):]
	return part, nil
}

var (
	_ fs.ReadFileFS = recordingFS{}
	_ fs.ReadDirFS  = recordingFS{}
	_ fs.StatFS     = recordingFS{}
	_ fs.ReadLinkFS = recordingFS{}
)

// Write writes the capture as text, with a comment for people at its head.
func (r *Recorder) Write(w io.Writer, comment string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	head := header{Format: formatVersion}
	for _, s := range r.samples {
		head.Samples = append(head.Samples, sampleHeader{Taken: s.taken})
	}
	out := &captureWriter{w: bufio.NewWriter(w)}
	out.write(r.scrub.comment(comment))
	out.lines(headerFile, []any{head})
	before := &recording{}
	for i, s := range r.samples {
		out.sample(fmt.Sprintf("t%d", i), s, before)
		before = s
	}
	if err := errors.Join(out.err, out.w.Flush()); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// captureWriter keeps the first error.
type captureWriter struct {
	w   *bufio.Writer
	err error
}

func (c *captureWriter) write(data []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(data)
	}
}

func (c *captureWriter) member(name string, data []byte) {
	c.write([]byte("-- " + name + " --\n"))
	c.write(data)
}

// lines writes a member of JSON objects, if there are any.
func (c *captureWriter) lines(name string, objects []any) {
	if len(objects) == 0 {
		return
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	for _, o := range objects {
		if err := encoder.Encode(o); err != nil && c.err == nil {
			c.err = err
		}
	}
	c.member(name, b.Bytes())
}

// sample writes what differs from the sample before.
func (c *captureWriter) sample(prefix string, now, before *recording) {
	var index []any
	type content struct {
		name string
		data []byte
	}
	var contents []content
	for _, q := range sortedQuestions(now.files) {
		a := now.files[q]
		if old, ok := before.files[q]; ok && old.equal(a) {
			continue
		}
		line := indexLine{Op: q.op, Name: q.name, Entries: a.entries, Target: a.target, Mode: a.mode, Failed: a.failed}
		if q.op == opRead && a.failed == nil {
			member := prefix + "/" + q.name
			if !memberName(q.name) {
				member = fmt.Sprintf("%s/content-%d", prefix, len(contents))
			}
			text, encoding := encode(a.data)
			contents = append(contents, content{member, text})
			if encoding == asIs && memberName(q.name) {
				continue
			}
			line.Data, line.Encoding = member, encoding
		}
		index = append(index, line)
	}
	for _, q := range sortedQuestions(before.files) {
		if _, ok := now.files[q]; !ok {
			index = append(index, indexLine{Op: q.op, Name: q.name, Forget: true})
		}
	}
	c.lines(prefix+".index", index)
	for _, m := range contents {
		c.member(m.name, m.data)
	}
	c.lines(prefix+".calls", changedCalls(now, before))
	if now.probes != nil {
		c.member(prefix+".probes", append(bytes.Clone(now.probes), '\n'))
	}
}

func changedCalls(now, before *recording) []any {
	var list []any
	for _, key := range sortedCalls(now.calls) {
		if old, ok := before.calls[key]; !ok || !old.equal(now.calls[key]) {
			list = append(list, callLine{callKey: key, callResult: now.calls[key]})
		}
	}
	for _, key := range sortedCalls(before.calls) {
		if _, ok := now.calls[key]; !ok {
			list = append(list, callLine{callKey: key, Forget: true})
		}
	}
	return list
}

func sortedQuestions(files map[question]answer) []question {
	return slices.SortedFunc(maps.Keys(files), func(p, q question) int {
		return strings.Compare(p.name+"\x00"+p.op, q.name+"\x00"+q.op)
	})
}

func sortedCalls(calls map[callKey]callResult) []callKey {
	return slices.SortedFunc(maps.Keys(calls), func(p, q callKey) int {
		return strings.Compare(p.Call+"\x00"+p.Dev+"\x00"+p.Flow, q.Call+"\x00"+q.Dev+"\x00"+q.Flow)
	})
}
