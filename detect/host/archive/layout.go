package archive

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/tree"
)

// wantedTrees are the folders of a host that are read, wantedFiles the other
// files. An unpacked sosreport has gigabytes of logs besides.
var (
	wantedTrees = [...]string{"proc", "sys", "sos_commands"}
	wantedFiles = [...]string{"etc/os-release", "usr/lib/os-release", "boot/config-"}
)

// maxDepth is how many folders may stand before the wanted ones: the root one
// down and tN.
const maxDepth = 2

// wanted reports whether a member is kept. It allows the root to be one folder
// down and samples below it.
func wanted(name string) bool {
	rest := name
	for range maxDepth + 1 {
		if wantedBelowRoot(rest) {
			return true
		}
		var ok bool
		if _, rest, ok = strings.Cut(rest, "/"); !ok {
			return false
		}
	}
	return false
}

func wantedBelowRoot(name string) bool {
	if inTree(name) {
		return true
	}
	for _, file := range wantedFiles {
		if strings.HasPrefix(name, file) {
			return true
		}
	}
	return false
}

func inTree(name string) bool {
	for _, t := range wantedTrees {
		if rest, ok := strings.CutPrefix(name, t); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// sampleOf splits the number off a name below a sample folder: "t3/proc/stat"
// gives 3, "proc/stat". The number is -1 for what is common to all samples.
func sampleOf(name string) (int, string) {
	first, rest, _ := strings.Cut(name, "/")
	digits, ok := strings.CutPrefix(first, "t")
	number, err := strconv.ParseUint(digits, 10, 31)
	if !ok || err != nil || strconv.FormatUint(number, 10) != digits {
		return -1, name
	}
	return int(number), rest
}

// isHostPath reports whether a name below some root shows that a host is there.
func isHostPath(name string) bool {
	_, rest := sampleOf(name)
	return inTree(rest)
}

var errNoHost = errors.New("no captured host: expected proc/, sys/ or sos_commands/ (or samples t0/, t1/, … of them) at the top or one folder down, or a capture of napitune")

// findRoot returns the folder that the host is in, "" for the top.
func findRoot(members []member) (string, error) {
	roots := map[string]bool{}
	for _, m := range members {
		if isHostPath(m.name) {
			return "", nil
		}
		if first, rest, ok := strings.Cut(m.name, "/"); ok && isHostPath(rest) {
			roots[first] = true
		}
	}
	switch len(roots) {
	case 0:
		return "", errNoHost
	case 1:
		for root := range roots {
			return root, nil
		}
	}
	names := make([]string, 0, len(roots))
	for root := range roots {
		names = append(names, shorten(root))
	}
	slices.Sort(names)
	return "", fmt.Errorf("several captured hosts (%s, %s, …): name one of them", names[0], names[1])
}

// sampleTree is the files of one sample.
type sampleTree struct {
	number int // N of tN; 0 if there are no sample folders
	files  *tree.Tree
}

// layout sorts members into samples, in numeric order.
func (b *bundle) layout() ([]sampleTree, error) {
	root, err := findRoot(b.members)
	if err != nil {
		return nil, err
	}
	parts := map[int][]member{}
	for _, m := range b.members {
		if root != "" {
			rest, ok := strings.CutPrefix(m.name, root+"/")
			if !ok {
				continue
			}
			m.name = rest
		}
		number, rest := sampleOf(m.name)
		if rest != "" && wantedBelowRoot(rest) {
			m.name = rest
			parts[number] = append(parts[number], m)
		}
	}
	common := tree.New()
	common.Missing = host.ErrNotCaptured
	b.fill(common, parts[-1])
	delete(parts, -1)
	if len(parts) == 0 {
		return []sampleTree{{files: common}}, nil
	}
	var samples []sampleTree
	for number, own := range parts {
		files := common.Clone()
		b.fill(files, own)
		samples = append(samples, sampleTree{number: number, files: files})
	}
	slices.SortFunc(samples, func(x, y sampleTree) int { return cmp.Compare(x.number, y.number) })
	return samples, nil
}

// fill stores members in a tree. Links come first, so that files named by a
// path through a link land behind it whatever the order of the archive.
func (b *bundle) fill(files *tree.Tree, members []member) {
	linkAll(files, members, func(m member, err error) { b.note("%s skipped: %v", shorten(m.name), bare(err)) })
	for _, m := range members {
		var err error
		switch m.kind {
		case memberDir:
			err = files.Mkdir(m.name)
		case memberFile:
			err = files.WriteFile(m.name, m.data)
		}
		if err != nil {
			b.note("%s skipped: %v", shorten(m.name), bare(err))
		}
	}
}

// linkAll stores the links of members, parents first.
func linkAll(files *tree.Tree, members []member, failed func(member, error)) {
	var links []member
	for _, m := range members {
		if m.kind == memberLink {
			links = append(links, m)
		}
	}
	slices.SortStableFunc(links, func(x, y member) int { return strings.Compare(x.name, y.name) })
	for _, m := range links {
		if err := files.Symlink(m.name, m.target); err != nil {
			failed(m, err)
		}
	}
}
