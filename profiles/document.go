package profiles

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

// Error is a mistake in a policy file and where it is.
type Error struct {
	File         string
	Line, Column int // from 1
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// MaxFileBytes is the size from which a policy file is refused. A policy is
// written by hand, and the largest imaginable is far smaller.
const MaxFileBytes = 64 << 10

// The time of the YAML parser grows with the square of the nesting (48 s were
// measured for 50,000 opening brackets), so what no policy needs is refused
// before.
const (
	maxLineBytes = 4 << 10
	maxBrackets  = 1000
)

// decoder walks a YAML document with the keys and types it expects. It goes by
// the syntax tree and not by reflection because every error, also one of
// meaning, is to name its line. After the first error it only finishes.
type decoder struct {
	file  string
	first *Error
}

// fail records the first mistake.
func (d *decoder) fail(n ast.Node, format string, args ...any) {
	if d.first != nil {
		return
	}
	line, column := position(n)
	d.failAt(line, column, fmt.Sprintf(format, args...))
}

func (d *decoder) failAt(line, column int, text string) {
	if d.first == nil {
		d.first = &Error{File: d.file, Line: max(line, 1), Column: max(column, 1), Text: printable(text)}
	}
}

func position(n ast.Node) (line, column int) {
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

// root parses the file and returns its one document, nil after an error.
func (d *decoder) root(data []byte) ast.Node {
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
		d.fail(bodies[1], "a policy file holds one document, and here begins a second part")
		return nil
	}
}

// acceptable refuses what is no text or larger than any policy.
func (d *decoder) acceptable(data []byte) bool {
	brackets := 0
	if len(data) > MaxFileBytes {
		d.failAt(1, 1, fmt.Sprintf("the file has %d bytes, a policy at most %d", len(data), MaxFileBytes))
	}
	number := 0
	for line := range bytes.Lines(data[:min(len(data), MaxFileBytes)]) {
		number++
		brackets += bytes.Count(line, []byte("[")) + bytes.Count(line, []byte("{"))
		switch {
		case !utf8.Valid(line):
			d.failAt(number, 1, "the line is not UTF-8 text")
		case bytes.IndexByte(line, 0) >= 0:
			d.failAt(number, bytes.IndexByte(line, 0)+1, "the line holds a NUL byte")
		case len(line) > maxLineBytes:
			d.failAt(number, 1, fmt.Sprintf("the line has %d bytes, more than %d", len(line), maxLineBytes))
		case brackets > maxBrackets:
			d.failAt(number, 1, fmt.Sprintf("more than %d brackets", maxBrackets))
		}
	}
	return d.first == nil
}

// parseYAML turns a panic of the parser into an error: it has had several on
// malformed input, and a policy file must never end the program.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the file cannot be read as YAML (%v)", r)
		}
	}()
	// Duplicate keys are found later, with both lines.
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func (d *decoder) syntax(err error) {
	var placed yaml.Error
	if !errors.As(err, &placed) {
		d.failAt(1, 1, err.Error())
		return
	}
	line, column := at(placed.GetToken())
	d.failAt(line, column, "not valid YAML: "+placed.GetMessage())
}

// field says how to read the value of a key.
type field func(n ast.Node)

// mapping reads keys and values in the order of the file. what names the
// mapping in errors.
func (d *decoder) mapping(n ast.Node, what string, fields map[string]field) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fail(n, "%s is %s; a group of keys is needed", what, kindOf(n))
		return
	}
	lines := map[string]int{}
	for _, pair := range m.Values {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			d.fail(pair.Key, "a key is a word, not %s", kindOf(pair.Key))
			return
		}
		line, _ := position(key)
		if before := lines[key.Value]; before > 0 {
			d.fail(key, "key %q is given twice, first in line %d", clip(key.Value), before)
			return
		}
		lines[key.Value] = line
		read, ok := fields[key.Value]
		if !ok {
			names := make([]string, 0, len(fields))
			for name := range fields {
				names = append(names, name)
			}
			slices.Sort(names)
			d.fail(key, "unknown key %q in %s%s", clip(key.Value), what, choices(key.Value, names))
			return
		}
		read(pair.Value)
	}
}

// names reads a mapping whose keys are names: known lists them.
func (d *decoder) names(n ast.Node, what string, read func(key ast.Node, name string, value ast.Node)) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fail(n, "%s is %s; a group of keys is needed", what, kindOf(n))
		return
	}
	fields := map[string]field{}
	for _, pair := range m.Values {
		if key, ok := pair.Key.(*ast.StringNode); ok {
			fields[key.Value] = func(v ast.Node) { read(key, key.Value, v) }
		}
	}
	d.mapping(n, what, fields)
}

func (d *decoder) list(n ast.Node, what string, read field) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(n, "%s is %s; a list is needed, each entry behind a dash", what, kindOf(n))
		return
	}
	for _, v := range s.Values {
		read(v)
	}
}

// text reads words. Line breaks and runs of blanks become one blank, so that
// paragraphs may be folded as one likes.
func (d *decoder) text(n ast.Node, what string) string {
	var value string
	switch v := n.(type) {
	case *ast.StringNode:
		value = v.Value
	case *ast.LiteralNode:
		value = v.Value.Value
	default:
		d.fail(n, "%s is %s; text is needed", what, kindOf(n))
		return ""
	}
	value = strings.Join(strings.Fields(value), " ")
	if value == "" {
		d.fail(n, "%s is empty", what)
	}
	return value
}

func (d *decoder) boolean(n ast.Node, what string) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		d.fail(n, "%s is %s; true or false is needed", what, kindOf(n))
		return false
	}
	return b.Value
}

// plain is the text of an unquoted scalar as it was written, which is what
// numbers and CPU lists are read from: YAML would take 010 for eight.
func plain(n ast.Node) (string, bool) {
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

// number reads a finite number that is not negative.
func (d *decoder) number(n ast.Node, what string) float64 {
	text, ok := plain(n)
	if !ok {
		d.fail(n, "%s is %s; a number without quotes is needed", what, kindOf(n))
		return 0
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(value, 0) || math.IsNaN(value) || value < 0 {
		d.fail(n, "%s is %q; a number from 0 up is needed", what, clip(text))
		return 0
	}
	return value
}

// limit reads a whole number from 1 to highest.
func (d *decoder) limit(n ast.Node, what string, highest int) int {
	text, ok := plain(n)
	if !ok {
		d.fail(n, "%s is %s; a whole number without quotes is needed", what, kindOf(n))
		return 0
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < 1 || value > highest {
		d.fail(n, "%s is %q; a whole number from 1 to %d is needed", what, clip(text), highest)
		return 0
	}
	return value
}

// cpus reads a CPU list that is not empty, quoted or not.
func (d *decoder) cpus(n ast.Node, what string) cpuset.Set {
	text, ok := plain(n)
	if s, quoted := n.(*ast.StringNode); quoted {
		text, ok = s.Value, true
	}
	if !ok {
		d.fail(n, "%s is %s; a CPU list such as 0-3,8 is needed", what, kindOf(n))
		return cpuset.Set{}
	}
	set, err := cpuset.ParseList(text)
	switch {
	case err != nil:
		d.fail(n, "%s: %v", what, err)
	case set.IsEmpty():
		d.fail(n, "%s: %q names no CPU", what, clip(text))
	}
	return set
}

// date reads a day.
func (d *decoder) date(n ast.Node, what string) time.Time {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.fail(n, "%s is %s; a date such as 2031-12-31 is needed", what, kindOf(n))
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, s.Value)
	if err != nil {
		d.fail(n, "%s is %q; a date such as 2031-12-31 is needed", what, clip(s.Value))
		return time.Time{}
	}
	return day
}

// kindOf says in words what a node is.
func kindOf(n ast.Node) string {
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.StringNode:
		return strconv.Quote(clip(v.Value))
	case *ast.LiteralNode:
		return "a paragraph"
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return clip(t.Value)
		}
		return "a number"
	case *ast.MappingNode:
		return "a group of keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias, which a policy does not have"
	case *ast.TagNode:
		return "a tag, which a policy does not have"
	default:
		return "something a policy does not have"
	}
}
