package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/strict"
	"github.com/napitune/napitune/rules"
)

// Term is one entry of the glossary.
type Term struct {
	Names   []string // the first is the usual one
	Text    string
	Section string
}

// plain is the text without marks.
func (t Term) plain() string { return strings.NewReplacer("**", "", "`", "").Replace(t.Text) }

// ParseGlossary reads GLOSSARY.md: sections headed "## NAME" with entries of
// the form "- **name** / **other name** — text", which may go on over
// indented lines. Anything else outside the entries is prose and is skipped;
// an entry without text or name is an error that names the line.
func ParseGlossary(text string) ([]Term, error) {
	var terms []Term
	section := ""
	open := false
	for number, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "## "):
			section, open = strings.TrimSpace(line[3:]), false
		case strings.HasPrefix(line, "- **"):
			term, err := parseTerm(line)
			if err != nil {
				return nil, fmt.Errorf("glossary line %d: %w", number+1, err)
			}
			term.Section = section
			terms, open = append(terms, term), true
		case open && strings.HasPrefix(line, "  "):
			last := &terms[len(terms)-1]
			last.Text += " " + strings.TrimSpace(line)
		default:
			open = false
		}
	}
	return terms, nil
}

func parseTerm(line string) (Term, error) {
	head, text, ok := strings.Cut(line, " — ")
	if !ok || strings.TrimSpace(text) == "" {
		return Term{}, fmt.Errorf("entry %q has no text after a dash", line)
	}
	term := Term{Text: strings.TrimSpace(text)}
	for _, part := range strings.Split(strings.TrimPrefix(head, "- "), " / ") {
		name := strings.TrimSuffix(strings.TrimPrefix(part, "**"), "**")
		if name == "" || len(name)+4 != len(part) {
			return Term{}, fmt.Errorf("name %q is not written as **name**", part)
		}
		term.Names = append(term.Names, name)
	}
	return term, nil
}

// Manual is everything that can be explained.
type Manual struct {
	Rules []rules.Rule
	Knobs []*knob.Kind
	Terms []Term
}

// Names lists all that Explain knows, sorted.
func (m Manual) Names() []string {
	var out []string
	for _, r := range m.Rules {
		out = append(out, r.ID)
	}
	for _, k := range m.Knobs {
		out = append(out, k.Name)
	}
	for _, t := range m.Terms {
		out = append(out, t.Names...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Explain writes the pages of a finding, a setting or a term: all that go by
// the name. The name is compared without regard to case; an address such as
// eth0/ring.rx means its setting, and so does the last part of a sysctl's name.
// An unknown name is an error that suggests near ones.
func (m Manual) Explain(w io.Writer, name string, style Style) error {
	p := &page{w: w, style: style}
	found := 0
	next := func() {
		if found > 0 {
			p.blank()
		}
		found++
	}
	for _, r := range m.Rules {
		if strings.EqualFold(r.ID, name) {
			next()
			p.rulePage(r, m.words(r))
		}
	}
	kind := name[strings.LastIndex(name, "/")+1:]
	for _, k := range m.Knobs {
		if strings.EqualFold(k.Name, kind) || strings.EqualFold(strings.TrimPrefix(k.Name, sysctls), kind) {
			next()
			p.knobPage(k)
		}
	}
	for _, t := range m.Terms {
		if slices.ContainsFunc(t.Names, func(n string) bool { return strings.EqualFold(n, name) }) {
			next()
			p.termPage(t)
		}
	}
	if found == 0 {
		return fmt.Errorf("nothing is called %q%s", name, suggestion(strict.Near(name, m.Names())))
	}
	return p.err
}

func suggestion(near []string) string {
	if len(near) == 0 {
		return " (napitune explain lists what there is)"
	}
	return "; did you mean " + strings.Join(near, ", ") + "?"
}

// List writes the names of all pages, grouped.
func (m Manual) List(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	p.line(p.paint(bold, "Findings"))
	p.titles(len(m.Rules), func(i int) (string, string) { return m.Rules[i].ID, m.Rules[i].Title })
	p.blank()
	p.line(p.paint(bold, "Settings"))
	p.titles(len(m.Knobs), func(i int) (string, string) { return m.Knobs[i].Name, m.Knobs[i].Title })
	p.blank()
	p.line(p.paint(bold, "Terms"))
	var names []string
	for _, t := range m.Terms {
		names = append(names, t.Names[0])
	}
	p.hang("", plain, 2, strings.Join(names, ", "))
	return p.err
}

func (p *page) titles(n int, entry func(int) (name, title string)) {
	width := 0
	for i := range n {
		name, _ := entry(i)
		width = max(width, columns(name))
	}
	for i := range n {
		name, title := entry(i)
		p.hang("  "+name, plain, width+4, title)
	}
}

// All writes the whole manual: every finding, setting and term.
func (m Manual) All(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	p.line("FINDINGS")
	for _, r := range m.Rules {
		p.blank()
		p.rulePage(r, nil) // the terms follow
	}
	p.blank()
	p.line("SETTINGS")
	for _, k := range m.Knobs {
		p.blank()
		p.knobPage(k)
	}
	p.blank()
	p.line("TERMS")
	for _, t := range m.Terms {
		p.blank()
		p.termPage(t)
	}
	return p.err
}

// pageIndent leaves room for the longest label of a page, "side effects".
const pageIndent = 16

// sysctls is what people leave out when they name a network sysctl.
const sysctls = "net.core."

// everyday are terms of the glossary that say on a page what they say anywhere.
var everyday = []string{"budget", "online", "package", "possible", "present", "queue", "share"}

// words are the terms of the kernel that the thresholds of a page use: its
// other parts are written for readers who do not know them.
func (m Manual) words(r rules.Rule) []Term {
	text := strings.ToLower(strings.Join(r.Page.Thresholds, "\n"))
	var out []Term
	for _, t := range m.Terms {
		used := func(name string) bool { return mentions(text, strings.ToLower(name)) }
		if t.Section != "napitune" && !slices.Contains(everyday, t.Names[0]) && slices.ContainsFunc(t.Names, used) {
			out = append(out, t)
		}
	}
	return out
}

// mentions reports whether a text has a word, also in the plural. Part of
// another word, or of a name with dashes, is no mention.
func mentions(text, word string) bool {
	isLetter := func(r rune) bool { return r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		before, _ := utf8.DecodeLastRuneInString(text[:at+i])
		at += i + len(word)
		after, _ := utf8.DecodeRuneInString(strings.TrimPrefix(text[at:], "s"))
		if !isLetter(before) && !isLetter(after) {
			return true
		}
	}
}

func (p *page) rulePage(r rules.Rule, words []Term) {
	p.line(p.paint(bold, r.ID) + " — " + clean(r.Title))
	p.labelled("meaning", r.Page.Meaning)
	p.labelled("evidence", r.Page.Evidence)
	p.labelled("cause", r.Page.Cause)
	p.labelled("remedy", r.Page.Remedy)
	p.labelled("side effects", r.Page.SideEffects)
	p.labelled("not when", r.Page.NotWhen)
	for _, t := range r.Page.Thresholds {
		p.labelled("threshold", t)
	}
	for _, t := range words {
		p.labelled("word", t.Names[0]+": "+t.plain())
	}
	p.labelled("source", r.Page.Source)
}

func (p *page) labelled(label, text string) {
	if text != "" {
		p.hang("  "+label, dim, pageIndent, text)
	}
}

func (p *page) knobPage(k *knob.Kind) {
	p.line(p.paint(bold, k.Name) + " — " + clean(k.Title))
	p.labelled("meaning", k.Doc)
	p.labelled("belongs to", k.Scope.String())
	p.labelled("value", cmp.Or(strings.TrimSpace(k.Codec.Name+" "+unit(k.Unit)), "text"))
	p.labelled("disrupts", map[knob.Disruption]string{
		knob.DisruptsNothing: "nothing",
		knob.DisruptsPackets: "packets: some may be lost or reordered for moments",
		knob.DisruptsLink:    "the link: many drivers reset it, seconds without traffic",
	}[k.Disruption])
	if len(k.Clobbers) > 0 {
		p.labelled("overwrites", strings.Join(k.Clobbers, ", "))
	}
	p.labelled("source", k.Source)
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return "(" + u + ")"
}

func (p *page) termPage(t Term) {
	head := p.paint(bold, t.Names[0])
	if len(t.Names) > 1 {
		head += ", " + strings.Join(t.Names[1:], ", ")
	}
	p.line(head)
	p.hang("", plain, 2, t.plain())
}
