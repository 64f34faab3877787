package knob

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/host"
)

// failure turns an error of a host into a state. missing is the reason to give
// when the thing is certainly not there.
func failure(err error, missing string) State {
	switch {
	case errors.Is(err, host.ErrNotCaptured):
		return State{Status: Unknown, Reason: notCaptured}
	case errors.Is(err, host.ErrInconclusive):
		return State{Status: Unknown, Reason: err.Error()}
	case errors.Is(err, fs.ErrPermission):
		return State{Status: Denied, Reason: "reading it needs root or CAP_NET_ADMIN"}
	case errors.Is(err, host.ErrUnsupported), errors.Is(err, fs.ErrNotExist):
		return State{Status: Unsupported, Reason: missing}
	default:
		return State{Status: Unknown, Reason: err.Error()}
	}
}

func known(value, lock string, b Bounds) State {
	if lock != "" {
		return State{Status: Locked, Value: value, Reason: lock, Bounds: b}
	}
	return State{Status: Known, Value: value, Bounds: b}
}

// file is the access to a setting that is one file in procfs or sysfs.
type file struct {
	path   func(v View, r Ref) (string, error)
	decode func(text string) (string, error) // text of the file → canonical
	encode func(value string) string         // canonical → text of the file
	bounds func(v View, r Ref) Bounds
	// missing is the reason when the file is not there.
	missing func(v View, r Ref) string
	// absent is an error of reading besides ENOENT that says so, nil for none.
	absent error
}

func (f file) read(v View, r Ref) State {
	if v.Host == nil {
		return State{Status: Unknown, Reason: notCaptured}
	}
	path, err := f.path(v, r)
	if err != nil {
		return failure(err, err.Error())
	}
	text, err := v.Host.ReadFile(path)
	switch {
	case err == nil:
	case f.absent != nil && errors.Is(err, f.absent):
		return State{Status: Unsupported, Reason: f.missing(v, r)}
	default:
		return failure(err, f.missing(v, r))
	}
	value, err := f.decode(string(text))
	if err != nil {
		return State{Status: Unknown, Reason: fmt.Sprintf("read %s: %v", path, err)}
	}
	return known(value, "", f.bounds(v, r))
}

// written is the file itself: there is no other way to the setting.
func (f file) written(v View, r Ref) []string {
	path, err := f.path(v, r)
	if err != nil {
		return nil
	}
	return []string{path}
}

func (f file) write(v View, w host.Writer, r Ref, value string) error {
	path, err := f.path(v, r)
	if err != nil {
		return err
	}
	return writeFile(w, path, f.encode(value))
}

func writeFile(w host.Writer, path, text string) error {
	if w.WriteFile == nil {
		return fmt.Errorf("write %s: %w", path, host.ErrUnsupported)
	}
	return w.WriteFile(path, []byte(text))
}

// shell is the echo command for this file.
func (f file) shell(v View, r Ref, value string) string {
	path, err := f.path(v, r)
	if err != nil {
		return ""
	}
	return "echo " + f.encode(value) + " > " + quote("/"+path)
}

func devicePath(name string) func(View, Ref) (string, error) {
	return func(_ View, r Ref) (string, error) { return "sys/class/net/" + r.Dev + "/" + name, nil }
}

func queuePath(name string) func(View, Ref) (string, error) {
	return func(_ View, r Ref) (string, error) {
		side := "rx-"
		if r.Tx {
			side = "tx-"
		}
		return "sys/class/net/" + r.Dev + "/queues/" + side + strconv.Itoa(r.Queue) + "/" + name, nil
	}
}

func because(reason string) func(View, Ref) string {
	return func(View, Ref) string { return reason }
}

func within(min, max int64) func(View, Ref) Bounds {
	return func(View, Ref) Bounds { return Bounds{Min: min, Max: max} }
}

func verbatim(value string) string { return value }

func encodeSwitch(value string) string {
	if value == "on" {
		return "1"
	}
	return "0"
}

func decodeMask(text string) (string, error) {
	set, err := cpuset.ParseMask(text)
	if err != nil {
		return "", err
	}
	return set.String(), nil
}

// encodeMask prints the shortest hex form: wider masks are refused with
// EOVERFLOW even when the extra digits are zero (lib/bitmap-str.c).
func encodeMask(value string) string {
	set, err := cpuset.ParseList(value)
	if err != nil {
		// The value went through the codec, which uses the same parser.
		panic("knob: CPU set " + strconv.Quote(value) + " is not canonical")
	}
	return set.Mask()
}

// ask calls one read function of ethtool.
func ask[T any](v View, pick func(host.Ethtool) func(string) (T, error), dev string) (T, error) {
	var zero T
	if v.Host == nil {
		return zero, host.ErrNotCaptured
	}
	read := pick(v.Host.Ethtool)
	if read == nil {
		return zero, host.ErrNotCaptured
	}
	return read(dev)
}

func askChannels(v View, dev string) (host.Channels, error) {
	return ask(v, func(e host.Ethtool) func(string) (host.Channels, error) { return e.Channels }, dev)
}

func askRings(v View, dev string) (host.Rings, error) {
	return ask(v, func(e host.Ethtool) func(string) (host.Rings, error) { return e.Rings }, dev)
}

func askCoalesce(v View, dev string) (host.Coalesce, error) {
	c, err := ask(v, func(e host.Ethtool) func(string) (host.Coalesce, error) { return e.Coalesce }, dev)
	// The map belongs to the host: a read-modify-write must not reach into it.
	c.Values = maps.Clone(c.Values)
	return c, err
}

func askFeatures(v View, dev string) (host.Features, error) {
	return ask(v, func(e host.Ethtool) func(string) (host.Features, error) { return e.Features }, dev)
}

func askRSS(v View, dev string) (host.RSS, error) {
	return ask(v, func(e host.Ethtool) func(string) (host.RSS, error) { return e.RSS }, dev)
}

// put calls one write function of ethtool.
func put[T any](set func(string, T) error, dev string, value T) error {
	if set == nil {
		return host.ErrUnsupported
	}
	return set(dev, value)
}

// number reads a canonical integer that must fit the int of an ethtool structure.
func number(value string) (int, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > math.MaxUint32 {
		return 0, fmt.Errorf("%d is not an unsigned 32-bit number", n)
	}
	return int(n), nil
}

func word(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// quote makes one word of a POSIX shell out of text. Device names may contain
// nearly everything (net/core/dev.c, dev_valid_name).
func quote(text string) string {
	plain := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-/@+:=,", c)
	}
	if text != "" && strings.IndexFunc(text, func(c rune) bool { return !plain(c) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
