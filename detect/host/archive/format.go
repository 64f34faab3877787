package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/napitune/napitune/detect/host"
)

// A capture is a text archive (golang.org/x/tools/txtar):
//
//	napitune-capture.json  header: format and the time of every sample
//	tN.index               answers about files that are not plain text, one JSON object a line
//	tN/PATH                content of a file
//	tN.calls               results of the other functions of host.Host, one JSON object a line
//	tN.probes              probe counters
//
// A sample holds what differs from the one before; what was asked there and
// not here is listed as forgotten.
const (
	headerFile    = "napitune-capture.json"
	formatVersion = 1
)

// header is the first member of a capture.
type header struct {
	Format  int            `json:"format"`
	Samples []sampleHeader `json:"samples"`
}

type sampleHeader struct {
	Taken time.Time `json:"taken,omitzero"`
}

// Questions about files.
const (
	opRead  = "read"
	opList  = "list"
	opLink  = "link"
	opStat  = "stat"
	opLstat = "lstat"
)

// question is one way of asking one path.
type question struct{ op, name string }

// answer is what the machine said.
type answer struct {
	data    []byte
	entries []string // of a listing: "d" + name for a folder, "l" for a link, "-" else
	target  string
	mode    fs.FileMode
	failed  *failure
}

func (a answer) equal(b answer) bool {
	return bytes.Equal(a.data, b.data) && strings.Join(a.entries, "/") == strings.Join(b.entries, "/") &&
		a.target == b.target && a.mode == b.mode && a.failed.equal(b.failed)
}

// failure is an error that survives writing: its text and which sentinels it wraps.
type failure struct {
	Is   []string `json:"is,omitempty"`
	Text string   `json:"text"`
}

// sentinels are the errors that callers tell apart, by the name in captures.
var sentinels = [...]struct {
	name string
	err  error
}{
	{"not-captured", host.ErrNotCaptured}, {"unsupported", host.ErrUnsupported}, {"inconclusive", host.ErrInconclusive},
	{"not-exist", fs.ErrNotExist}, {"permission", fs.ErrPermission}, {"invalid", fs.ErrInvalid}, {"not-implemented", errors.ErrUnsupported},
	{"ENOENT", syscall.ENOENT}, {"EPERM", syscall.EPERM}, {"EACCES", syscall.EACCES}, {"EINVAL", syscall.EINVAL},
	{"EIO", syscall.EIO}, {"EBUSY", syscall.EBUSY}, {"ENODEV", syscall.ENODEV}, {"ENXIO", syscall.ENXIO},
	{"EOPNOTSUPP", syscall.EOPNOTSUPP}, {"EISDIR", syscall.EISDIR}, {"ENOTDIR", syscall.ENOTDIR}, {"EAGAIN", syscall.EAGAIN},
	{"ENETDOWN", syscall.ENETDOWN}, {"ELOOP", syscall.ELOOP}, {"ENOSYS", syscall.ENOSYS},
}

func failureOf(err error, scrub func(string) string) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: scrub(bare(err).Error())}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			f.Is = append(f.Is, s.name)
		}
	}
	return f
}

func (f *failure) equal(g *failure) bool {
	if f == nil || g == nil {
		return f == g
	}
	return f.Text == g.Text && strings.Join(f.Is, " ") == strings.Join(g.Is, " ")
}

// Error is the text as it was recorded.
func (f *failure) Error() string { return f.Text }

// Unwrap gives the sentinels that the recorded error wrapped.
func (f *failure) Unwrap() []error {
	var errs []error
	for _, name := range f.Is {
		for _, s := range sentinels {
			if s.name == name {
				errs = append(errs, s.err)
			}
		}
	}
	return errs
}

// indexLine is one line of tN.index.
type indexLine struct {
	Op      string      `json:"op"`
	Name    string      `json:"name"`
	Entries []string    `json:"entries,omitempty"`
	Target  string      `json:"target,omitempty"`
	Mode    fs.FileMode `json:"mode,omitempty"`
	Failed  *failure    `json:"error,omitempty"`
	// Data is the member with the content of a file whose name cannot be one,
	// Encoding how its content is written.
	Data     string `json:"data,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	Forget   bool   `json:"forget,omitempty"`
}

// Encodings of contents that a text archive cannot hold as they are.
const (
	asIs        = ""
	withoutLine = "no-newline" // a newline was added
	asBase64    = "base64"
)

// markerLine is what txtar takes for the start of the next member.
var markerLine = regexp.MustCompile(`(?m)^-- .* --\r?$`)

func encode(data []byte) (text []byte, encoding string) {
	switch {
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 || markerLine.Match(data):
		return wrap(base64.StdEncoding.EncodeToString(data)), asBase64
	case len(data) > 0 && data[len(data)-1] != '\n':
		return append(bytes.Clone(data), '\n'), withoutLine
	}
	return data, asIs
}

// wrap breaks a long line, for the sake of people and diff.
func wrap(line string) []byte {
	const width = 120
	var b bytes.Buffer
	for len(line) > width {
		b.WriteString(line[:width] + "\n")
		line = line[width:]
	}
	b.WriteString(line + "\n")
	return b.Bytes()
}

func decode(text []byte, encoding string) ([]byte, error) {
	switch encoding {
	case asIs:
		return text, nil
	case withoutLine:
		return bytes.TrimSuffix(text, []byte("\n")), nil
	case asBase64:
		plain := bytes.ReplaceAll(text, []byte("\n"), nil)
		data := make([]byte, base64.StdEncoding.DecodedLen(len(plain)))
		n, err := base64.StdEncoding.Decode(data, plain)
		if err != nil {
			return nil, err
		}
		return data[:n], nil
	}
	return nil, fmt.Errorf("unknown encoding %q", shorten(encoding))
}

// memberName reports whether a path can be the name of a member as it is.
func memberName(name string) bool {
	clean, usable, err := cleanName("t0/" + name)
	return err == nil && usable && clean == "t0/"+name && strings.TrimSpace(name) == name && !strings.ContainsAny(name, "\n\r")
}

// callKey names one result of a function of host.Host.
type callKey struct {
	Call string `json:"call"`
	Dev  string `json:"dev,omitempty"`
	Flow string `json:"flow,omitempty"`
}

// callResult is what it gave.
type callResult struct {
	Value  json.RawMessage `json:"value,omitempty"`
	Failed *failure        `json:"error,omitempty"`
}

func (c callResult) equal(d callResult) bool {
	return bytes.Equal(c.Value, d.Value) && c.Failed.equal(d.Failed)
}

// callLine is one line of tN.calls.
type callLine struct {
	callKey
	callResult
	Forget bool `json:"forget,omitempty"`
}

// readLines decodes a member of JSON objects, one a line.
func readLines[T any](data []byte, use func(T) error) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	for n := 1; ; n++ {
		var line T
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = use(line)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
	}
}
