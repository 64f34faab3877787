package report

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Style says how text may look. The zero value is plain text of 100 columns.
type Style struct {
	// Width is the widest line in columns; 0 means DefaultWidth, and less than
	// minWidth is treated as minWidth.
	Width int
	// Color allows terminal colours (ECMA-48 SGR).
	Color bool
	// Verbose shows what is otherwise folded: every piece of evidence, every
	// queue, every gap.
	Verbose bool
}

// DefaultWidth is the line width where the terminal does not tell its own.
const DefaultWidth = 100

// minWidth is the narrowest layout in which the widest fixed columns of a line
// (name, before, after) still leave room for a reason.
const minWidth = 60

func (s Style) width() int {
	switch {
	case s.Width == 0:
		return DefaultWidth
	case s.Width < minWidth:
		return minWidth
	default:
		return s.Width
	}
}

// paint is one of the SGR colours used, as the digits of the escape code.
type paint string

const (
	plain  paint = ""
	bold   paint = "1"
	dim    paint = "2"
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
	cyan   paint = "36"
)

// page collects lines and remembers the first write error, so that renderers
// need not check every line.
type page struct {
	w     io.Writer
	style Style
	err   error
}

func (p *page) write(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, text)
	}
}

func (p *page) blank() { p.write("\n") }

// line writes one line as it is: its parts must have been cleaned.
func (p *page) line(text string) { p.write(strings.TrimRight(text, " ") + "\n") }

func (p *page) paint(c paint, text string) string {
	if !p.style.Color || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// hang writes prefix and then text, wrapped, with every later line indented by
// indent columns. The prefix is padded to indent; where it is longer than that
// the text starts on a line of its own. Colours go on after the layout, because
// escape codes have no width.
func (p *page) hang(prefix string, c paint, indent int, text string) {
	lines := wrap(clean(text), p.style.width()-indent)
	pad := strings.Repeat(" ", indent)
	head := prefix
	if columns(prefix) > indent {
		p.line(p.paint(c, prefix))
		head = ""
	}
	for i, l := range lines {
		switch {
		case i == 0 && head != "":
			p.line(p.paint(c, head) + strings.Repeat(" ", indent-columns(head)) + l)
		default:
			p.line(pad + l)
		}
	}
	if len(lines) == 0 && head != "" {
		p.line(p.paint(c, head))
	}
}

// columns is the width of text on a terminal, one column per rune: everything
// printed went through clean, and napitune's own words have no wide runes.
func columns(text string) int { return utf8.RuneCountInString(text) }

// clean makes text from a host safe to print. Device, driver and interrupt
// names may contain any byte but white space and slashes (dev_valid_name in
// net/core/dev.c), so also the escape codes that rewrite a terminal; a captured
// host may contain anything at all.
func clean(text string) string {
	if !strings.ContainsFunc(text, unsafeRune) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case unsafeRune(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case unsafeRune(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

// unsafeRune reports runes that move the cursor, reorder text or are not text.
func unsafeRune(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// wrap breaks text at spaces into lines of at most width columns. A word that
// is longer than a line is broken where the line ends.
func wrap(text string, width int) []string {
	width = max(width, 1)
	var lines []string
	current := ""
	for _, word := range strings.Fields(text) {
		for columns(word) > width {
			if current != "" {
				lines = append(lines, current)
				current = ""
			}
			cut := byteOffset(word, width)
			lines = append(lines, word[:cut])
			word = word[cut:]
		}
		switch {
		case current == "":
			current = word
		case columns(current)+1+columns(word) <= width:
			current += " " + word
		default:
			lines = append(lines, current)
			current = word
		}
	}
	if current != "" {
		lines = append(lines, current)
	}
	return lines
}

// byteOffset is where the n-th rune of text starts.
func byteOffset(text string, n int) int {
	for i := range text {
		if n == 0 {
			return i
		}
		n--
	}
	return len(text)
}

// elide shortens text to width columns by leaving out its middle: the ends of
// a CPU list, mask or table tell most.
func elide(text string, width int) string {
	text = clean(text)
	n := columns(text)
	if n <= width {
		return text
	}
	if width <= 1 {
		return "…"
	}
	head := (width - 1 + 1) / 2
	tail := width - 1 - head
	return text[:byteOffset(text, head)] + "…" + text[byteOffset(text, n-tail):]
}

// pad fills text with spaces up to width columns.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-columns(text)))
}

// table writes rows of cells aligned under heads. The last column is wrapped
// with a hanging indent; number columns are right-aligned. Cells wider than
// limit columns are elided.
type table struct {
	heads []string
	right map[int]bool
	rows  [][]string
	limit int
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) render(p *page, indent int) {
	if len(t.rows) == 0 {
		return
	}
	last := len(t.heads) - 1
	widths := make([]int, len(t.heads))
	for i, h := range t.heads {
		widths[i] = columns(h)
	}
	for _, row := range t.rows {
		for i := range row {
			if i != last {
				row[i] = elide(row[i], t.limit)
			}
			widths[i] = max(widths[i], columns(row[i]))
		}
	}
	lead := strings.Repeat(" ", indent)
	p.line(lead + p.paint(dim, strings.TrimRight(t.cells(t.heads, widths, last), " ")+t.tail(t.heads[last], widths, last)))
	for _, row := range t.rows {
		prefix := lead + t.cells(row, widths, last)
		if row[last] == "" {
			p.line(prefix)
			continue
		}
		p.hang(strings.TrimRight(prefix, " "), plain, columns(prefix), row[last])
	}
}

// cells lays out all columns but the last.
func (t *table) cells(row []string, widths []int, last int) string {
	var b strings.Builder
	for i, cell := range row[:last] {
		if t.right[i] {
			b.WriteString(strings.Repeat(" ", max(0, widths[i]-columns(cell))) + cell + "  ")
			continue
		}
		b.WriteString(pad(cell, widths[i]) + "  ")
	}
	return b.String()
}

// tail places the heading of the last column after the trimmed others.
func (t *table) tail(head string, widths []int, last int) string {
	trimmed := columns(strings.TrimRight(t.cells(t.heads, widths, last), " "))
	full := columns(t.cells(t.heads, widths, last))
	return strings.Repeat(" ", full-trimmed) + head
}

// plural prints a count with its noun: "1 change", "2 changes".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(uint64(n)) + " " + noun + "s"
}

// count prints a number with thousands separated.
func count(n uint64) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// number prints a measured value with no more digits than it deserves.
func number(v float64) string {
	switch a := max(v, -v); {
	case v == float64(int64(v)) && a < 1e15:
		if v < 0 {
			return "-" + count(uint64(-v))
		}
		return count(uint64(v))
	case a >= 1000:
		return count(uint64(a + 0.5))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
