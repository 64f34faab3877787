// Package strict reads YAML files that people write: every mistake (an unknown
// key, a value of the wrong type, a key given twice) is told with its line and
// the nearest right name, and nothing is guessed. It does no I/O.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/napitune/napitune/detect/cpuset"
)

// Error is a mistake in a file and where it is.
type Error struct {
	File         string
	Line, Column int // from 1
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// The time of the YAML parser grows with the square of the nesting (48 s were
// measured for 50,000 opening brackets), so what no such file needs is refused
// before.
const maxBrackets = 1000

// mostMistakes bounds how many mistakes of one file are kept.
const mostMistakes = 100

// Decoder walks a YAML document with the keys and types it expects. It goes by
// the syntax tree and not by reflection because every error, also one of
// meaning, is to name its line. What is wrong is noted and left out, so that the
// rest is read all the same.
type Decoder struct {
	// File is what errors call the file, Noun what it holds: "policy".
	File, Noun string
	// MaxBytes is the size from which the file is refused, MaxLineBytes that of
	// a line.
	MaxBytes, MaxLineBytes int

	mistakes []*Error
}

// Mistakes are what was found wrong so far, in the order of the reading.
func (d *Decoder) Mistakes() []*Error { return d.mistakes }

// Wrong reports whether anything was found wrong so far.
func (d *Decoder) Wrong() bool { return len(d.mistakes) > 0 }

// Fail notes a mistake at a node.
func (d *Decoder) Fail(n ast.Node, format string, args ...any) {
	line, column := Position(n)
	d.failAt(line, column, fmt.Sprintf(format, args...))
}

func (d *Decoder) failAt(line, column int, text string) {
	if len(d.mistakes) < mostMistakes {
		d.mistakes = append(d.mistakes, &Error{File: d.File, Line: max(line, 1), Column: max(column, 1), Text: printable(text)})
	}
}

// Position is the line and column of a node, from 1.
func Position(n ast.Node) (line, column int) {
	// The token of a block mapping or list is its first delimiter; people
	// look for its first key.
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if n == nil {
		return 1, 1
	}
	return at(n.GetToken())
}

func at(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return t.Position.Line, t.Position.Column
}

// Root parses the file and returns its one document, nil after an error.
func (d *Decoder) Root(data []byte) ast.Node {
	if !d.acceptable(data) {
		return nil
	}
	file, err := parseYAML(data)
	if err != nil {
		d.syntax(err)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.failAt(1, 1, "the file is empty")
		return nil
	case 1:
		return bodies[0]
	default:
		d.Fail(bodies[1], "a %s file holds one document, and here begins a second part", d.Noun)
		return nil
	}
}

// acceptable refuses what is no text or larger than any such file.
func (d *Decoder) acceptable(data []byte) bool {
	brackets := 0
	if len(data) > d.MaxBytes {
		d.failAt(1, 1, fmt.Sprintf("the file has %d bytes, a %s at most %d", len(data), d.Noun, d.MaxBytes))
		return false
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		brackets += bytes.Count(line, []byte("[")) + bytes.Count(line, []byte("{"))
		column, text := 1, ""
		switch {
		case !utf8.Valid(line):
			text = "the line is not UTF-8 text"
		case bytes.IndexByte(line, 0) >= 0:
			column, text = bytes.IndexByte(line, 0)+1, "the line holds a NUL byte"
		case len(line) > d.MaxLineBytes:
			text = fmt.Sprintf("the line has %d bytes, more than %d", len(line), d.MaxLineBytes)
		case brackets > maxBrackets:
			text = fmt.Sprintf("more than %d brackets", maxBrackets)
		}
		if text != "" {
			d.failAt(number, column, text)
			return false
		}
	}
	return true
}

// parseYAML turns a panic of the parser into an error: it has had several on
// malformed input, and a file must never end the program.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the file cannot be read as YAML (%v)", r)
		}
	}()
	// Duplicate keys are found later, with both lines.
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func (d *Decoder) syntax(err error) {
	var placed yaml.Error
	if !errors.As(err, &placed) {
		d.failAt(1, 1, err.Error())
		return
	}
	line, column := at(placed.GetToken())
	d.failAt(line, column, "not valid YAML: "+placed.GetMessage())
}

// Field says how to read the value of a key.
type Field func(n ast.Node)

// Mapping reads keys and values in the order of the file. what names the
// Mapping in errors.
func (d *Decoder) Mapping(n ast.Node, what string, fields map[string]Field) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.Fail(n, "%s is %s; a group of keys is needed", what, d.KindOf(n))
		return
	}
	lines := map[string]int{}
	for _, pair := range m.Values {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			d.Fail(pair.Key, "a key is a word, not %s", d.KindOf(pair.Key))
			continue
		}
		line, _ := Position(key)
		if before := lines[key.Value]; before > 0 {
			d.Fail(key, "key %q is given twice, first in line %d", Clip(key.Value), before)
			continue
		}
		lines[key.Value] = line
		read, ok := fields[key.Value]
		if !ok {
			names := make([]string, 0, len(fields))
			for name := range fields {
				names = append(names, name)
			}
			slices.Sort(names)
			d.Fail(key, "unknown key %q in %s%s", Clip(key.Value), what, Choices(key.Value, names))
			continue
		}
		read(pair.Value)
	}
}

// Names reads a mapping whose keys are names: known lists them.
func (d *Decoder) Names(n ast.Node, what string, read func(key ast.Node, name string, value ast.Node)) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.Fail(n, "%s is %s; a group of keys is needed", what, d.KindOf(n))
		return
	}
	fields := map[string]Field{}
	for _, pair := range m.Values {
		if key, ok := pair.Key.(*ast.StringNode); ok {
			fields[key.Value] = func(v ast.Node) { read(key, key.Value, v) }
		}
	}
	d.Mapping(n, what, fields)
}

// List reads the entries of a list.
func (d *Decoder) List(n ast.Node, what string, read Field) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.Fail(n, "%s is %s; a list is needed, each entry behind a dash", what, d.KindOf(n))
		return
	}
	for _, v := range s.Values {
		read(v)
	}
}

// Text reads words. Line breaks and runs of blanks become one blank, so that
// paragraphs may be folded as one likes.
func (d *Decoder) Text(n ast.Node, what string) string {
	var value string
	switch v := n.(type) {
	case *ast.StringNode:
		value = v.Value
	case *ast.LiteralNode:
		value = v.Value.Value
	default:
		d.Fail(n, "%s is %s; text is needed", what, d.KindOf(n))
		return ""
	}
	value = strings.Join(strings.Fields(value), " ")
	if value == "" {
		d.Fail(n, "%s is empty", what)
	}
	return value
}

// Boolean reads true or false.
func (d *Decoder) Boolean(n ast.Node, what string) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		d.Fail(n, "%s is %s; true or false is needed", what, d.KindOf(n))
		return false
	}
	return b.Value
}

// Plain is the text of an unquoted scalar as it was written, which is what
// numbers and CPU lists are read from: YAML would take 010 for eight.
func Plain(n ast.Node) (string, bool) {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.StringNode:
		t := n.GetToken()
		if t == nil || t.Type == token.DoubleQuoteType || t.Type == token.SingleQuoteType {
			return "", false
		}
		return t.Value, true
	default:
		return "", false
	}
}

// Scalar is the text of a single value as it was written, quotes taken away:
// what a value means is the caller's to say. "" may be written as quotes or as
// nothing at all.
func Scalar(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.NullNode:
		return "", true
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return t.Value, true
		}
	}
	return "", false
}

// Number reads a finite number that is not negative.
func (d *Decoder) Number(n ast.Node, what string) float64 {
	text, ok := Plain(n)
	if !ok {
		d.Fail(n, "%s is %s; a number without quotes is needed", what, d.KindOf(n))
		return 0
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(value, 0) || math.IsNaN(value) || value < 0 {
		d.Fail(n, "%s is %q; a number from 0 up is needed", what, Clip(text))
		return 0
	}
	return value
}

// Limit reads a whole number from 1 to highest.
func (d *Decoder) Limit(n ast.Node, what string, highest int) int {
	text, ok := Plain(n)
	if !ok {
		d.Fail(n, "%s is %s; a whole number without quotes is needed", what, d.KindOf(n))
		return 0
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < 1 || value > highest {
		d.Fail(n, "%s is %q; a whole number from 1 to %d is needed", what, Clip(text), highest)
		return 0
	}
	return value
}

// Cpus reads a CPU list that is not empty, quoted or not.
func (d *Decoder) Cpus(n ast.Node, what string) cpuset.Set {
	text, ok := Plain(n)
	if s, quoted := n.(*ast.StringNode); quoted {
		text, ok = s.Value, true
	}
	if !ok {
		d.Fail(n, "%s is %s; a CPU list such as 0-3,8 is needed", what, d.KindOf(n))
		return cpuset.Set{}
	}
	set, err := cpuset.ParseList(text)
	switch {
	case err != nil:
		d.Fail(n, "%s: %v", what, err)
	case set.IsEmpty():
		d.Fail(n, "%s: %q names no CPU", what, Clip(text))
	}
	return set
}

// Date reads a day.
func (d *Decoder) Date(n ast.Node, what string) time.Time {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.Fail(n, "%s is %s; a date such as 2031-12-31 is needed", what, d.KindOf(n))
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, s.Value)
	if err != nil {
		d.Fail(n, "%s is %q; a date such as 2031-12-31 is needed", what, Clip(s.Value))
		return time.Time{}
	}
	return day
}

// KindOf says in words what a node is.
func (d *Decoder) KindOf(n ast.Node) string {
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.StringNode:
		return strconv.Quote(Clip(v.Value))
	case *ast.LiteralNode:
		return "a paragraph"
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return Clip(t.Value)
		}
		return "a number"
	case *ast.MappingNode:
		return "a group of keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias, which a " + d.Noun + " does not have"
	case *ast.TagNode:
		return "a tag, which a " + d.Noun + " does not have"
	default:
		return "something a " + d.Noun + " does not have"
	}
}
