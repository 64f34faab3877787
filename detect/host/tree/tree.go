// Package tree is a file tree in memory with the parts of procfs and sysfs that
// matter to a reader: symbolic links, files that exist but cannot be read,
// directories that name entries nobody stored, and a distinction between "not
// there" and "not known".
//
// A Tree may be read from several goroutines at once; changing it while it is
// read or cloned is not safe. Clones share what has not been changed since.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// maxLinks bounds the symbolic links followed for one name, as MAXSYMLINKS
	// does (include/linux/namei.h).
	maxLinks = 40
	// maxPath bounds the length of a name and of a link target in bytes, as
	// PATH_MAX does (include/uapi/linux/limits.h).
	maxPath = 4096
)

// Errors of a Tree, wrapped in *fs.PathError.
var (
	// ErrLoop: more than 40 symbolic links on the way.
	ErrLoop = errors.New("too many levels of symbolic links")
	// ErrNotDir: a part of the name before the last is a file, or a file was listed.
	ErrNotDir = errors.New("not a directory")
	// ErrIsDir: a directory was read as a file.
	ErrIsDir = errors.New("is a directory")
	// ErrNotLink: the target of something that is not a symbolic link was asked.
	ErrNotLink = errors.New("not a symbolic link")
)

// Tree is a file tree in memory. It implements fs.FS, fs.ReadFileFS,
// fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS. Names have no leading slash, "."
// is the root, and symbolic links are followed as the kernel does, except that
// absolute targets and ".." never lead out of the root.
type Tree struct {
	// Missing is what names give that are not stored; nil means fs.ErrNotExist.
	Missing error
	// Strict is for trees pieced together from answers: directories that were
	// only created on the way to something below them are unknown, so that
	// listing or asking about them gives Missing, and only WriteFile, Symlink,
	// Mkdir and SetEntries change what listings show. Without it they are ordinary
	// directories. It must be set before the first change.
	Strict bool

	root  *node
	owner atomic.Pointer[owner]
}

// owner is the identity of the Tree that may change a node in place. It has a
// size so that two of them never share an address.
type owner struct{ _ byte }

type kind uint8

const (
	unknown kind = iota // the name is known, nothing else
	file
	directory
	link
)

// Op is one way of asking for a name.
type Op uint8

// Ops that can fail on their own.
const (
	Read Op = iota // ReadFile and Open of a file
	List           // ReadDir and Open of a directory
	Link           // ReadLink
	Stat           // Stat and Lstat
	ops
)

type node struct {
	owner    *owner
	data     []byte
	target   string
	children map[string]*node
	errs     *[ops]error
	mode     fs.FileMode // type and permissions as set by SetMode
	shown    fs.FileMode // type as set by SetEntries
	kind     kind
	moded    bool // mode was set
	typed    bool // shown was set
	named    bool // appears in the listing of its directory
}

// New returns an empty tree: a root directory with nothing in it.
func New() *Tree {
	t := &Tree{}
	own := &owner{}
	t.owner.Store(own)
	t.root = &node{owner: own, kind: directory, named: true}
	return t
}

// Clone returns a tree of the same content that can be changed on its own. It
// takes constant time: both trees copy what they change afterwards, and file
// contents are shared for good.
func (t *Tree) Clone() *Tree {
	c := &Tree{Missing: t.Missing, Strict: t.Strict, root: t.root}
	t.owner.Store(&owner{})
	c.owner.Store(&owner{})
	return c
}

// WriteFile stores a file and creates the directories above it. It follows
// symbolic links, also in the last part of the name. The tree keeps data: the
// caller must not change it afterwards. Earlier failures of the name are forgotten.
func (t *Tree) WriteFile(name string, data []byte) error {
	n, err := t.change("write", name, true)
	if err != nil {
		return err
	}
	if n.kind == directory || len(n.children) > 0 {
		return &fs.PathError{Op: "write", Path: name, Err: ErrIsDir}
	}
	n.kind, n.data, n.errs, n.named, n.typed = file, data, nil, true, false
	return nil
}

// Symlink stores a symbolic link in place of whatever had the name.
func (t *Tree) Symlink(name, target string) error {
	if target == "" || len(target) > maxPath || !utf8.ValidString(target) || strings.ContainsRune(target, 0) {
		return &fs.PathError{Op: "symlink", Path: name, Err: fmt.Errorf("target of %d bytes: %w", len(target), fs.ErrInvalid)}
	}
	n, err := t.change("symlink", name, false)
	if err != nil {
		return err
	}
	if n == t.root {
		return &fs.PathError{Op: "symlink", Path: name, Err: fs.ErrInvalid}
	}
	*n = node{owner: n.owner, kind: link, target: target, named: true}
	return nil
}

// Mkdir stores a directory that can be listed. What it holds already stays.
func (t *Tree) Mkdir(name string) error {
	n, err := t.change("mkdir", name, true)
	if err != nil {
		return err
	}
	if n.kind == file {
		return &fs.PathError{Op: "mkdir", Path: name, Err: ErrNotDir}
	}
	n.kind, n.errs, n.named, n.typed = directory, nil, true, false
	return nil
}

// Entry is one name of a listing.
type Entry struct {
	Name string
	Type fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
}

// SetDir makes the listing of a directory exactly these names. What is stored
// below the directory but not named stays readable; reading what is named but
// not stored gives Missing.
func (t *Tree) SetDir(name string, entries []string) error {
	list := make([]Entry, len(entries))
	for i, e := range entries {
		list[i].Name = e
	}
	return t.setEntries(name, list, false)
}

// SetEntries is SetDir with the types that the listing shows, whatever is stored.
func (t *Tree) SetEntries(name string, entries []Entry) error {
	return t.setEntries(name, entries, true)
}

func (t *Tree) setEntries(name string, entries []Entry, typed bool) error {
	for _, e := range entries {
		if e.Name == "." || strings.Contains(e.Name, "/") || !fs.ValidPath(e.Name) {
			return &fs.PathError{Op: "list", Path: name, Err: fmt.Errorf("entry %q: %w", e.Name, fs.ErrInvalid)}
		}
	}
	dir, err := t.change("list", name, true)
	if err != nil {
		return err
	}
	if dir.kind == file {
		return &fs.PathError{Op: "list", Path: name, Err: ErrNotDir}
	}
	dir.kind, dir.errs, dir.named = directory, nil, dir.named || !t.Strict
	own := t.owner.Load()
	for key, child := range dir.children {
		if child.named {
			dir.children[key] = child.owned(own)
			dir.children[key].named = false
		}
	}
	for _, e := range entries {
		child := dir.child(e.Name, own, true)
		child.named = true
		child.shown, child.typed = e.Type.Type(), typed
	}
	return nil
}

// SetMode sets what Stat and Lstat answer, type and permissions, whether or not
// there is content.
func (t *Tree) SetMode(name string, mode fs.FileMode) error {
	n, err := t.change("chmod", name, mode.Type() != fs.ModeSymlink)
	if err != nil {
		return err
	}
	n.mode, n.moded = mode, true
	return nil
}

// Fail makes reading, listing and following the name give err, which callers
// find wrapped in *fs.PathError. Stat still tells that the name is there,
// unless err is fs.ErrNotExist. What is stored below the name stays reachable.
func (t *Tree) Fail(name string, err error) error {
	for _, op := range []Op{Read, List, Link} {
		if failed := t.FailOp(op, name, err); failed != nil {
			return failed
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return t.FailOp(Stat, name, err)
}

// FailOp makes one way of asking for the name give err.
func (t *Tree) FailOp(op Op, name string, err error) error {
	n, failed := t.change("fail", name, op != Link)
	if failed != nil {
		return failed
	}
	errs := [ops]error{}
	if n.errs != nil {
		errs = *n.errs
	}
	errs[op] = err
	n.errs = &errs
	if op != Link && !t.Strict {
		n.named = !errors.Is(err, fs.ErrNotExist)
	}
	return nil
}

// Remove drops the name and everything below it, also from the listing of its
// directory. A link is dropped, not what it points to. A name that is not there
// gives Missing.
func (t *Tree) Remove(name string) error {
	path, n, err := t.resolve(name, false)
	if err == nil && n == nil {
		err = t.missing()
	}
	if err == nil && len(path) == 0 {
		err = fs.ErrInvalid
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	last := len(path) - 1
	parent := t.descend(path[:last])
	delete(parent.children, path[last])
	return nil
}

// Walk calls visit for every name that is stored, parents first and siblings
// in order, without following links. Names that are only listed or only fail are visited too. The
// walk ends at the first error, which it returns.
func (t *Tree) Walk(visit func(name string, info fs.FileInfo) error) error {
	return walk(t.root, "", visit)
}

func walk(n *node, prefix string, visit func(string, fs.FileInfo) error) error {
	for _, key := range sorted(n.children, false) {
		child, name := n.children[key], prefix+key
		if err := visit(name, child.info(key)); err != nil {
			return err
		}
		if err := walk(child, name+"/", visit); err != nil {
			return err
		}
	}
	return nil
}

// Paths returns the names of all files and links, in order.
func (t *Tree) Paths() []string {
	var paths []string
	collect(t.root, "", &paths)
	slices.Sort(paths)
	return paths
}

func collect(n *node, prefix string, paths *[]string) {
	for key, child := range n.children {
		if child.kind == file || child.kind == link {
			*paths = append(*paths, prefix+key)
		}
		collect(child, prefix+key+"/", paths)
	}
}

// ReadFile returns the content of a file. It is the tree's own memory and not a
// copy, because /proc/interrupts of a large host has 13 MB: callers must not
// modify it.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	n, err := t.find(name, true)
	if err == nil {
		err = n.readable(t)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return n.data[:len(n.data):len(n.data)], nil
}

// ReadDir lists a directory, ordered by name.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find(name, true)
	if err == nil {
		err = n.listable(t)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return n.entries(), nil
}

// ReadLink returns the target of a symbolic link as it was stored.
func (t *Tree) ReadLink(name string) (string, error) {
	n, err := t.find(name, false)
	switch {
	case err != nil:
	case n.failure(Link) != nil:
		err = n.failure(Link)
	case n.kind == unknown:
		err = t.missing()
	case n.kind != link:
		err = ErrNotLink
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return n.target, nil
}

// Stat describes what the name leads to.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat(name, true) }

// Lstat describes the name itself, which may be a symbolic link.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat(name, false) }

func (t *Tree) stat(name string, follow bool) (fs.FileInfo, error) {
	n, err := t.find(name, follow)
	switch {
	case err != nil:
	case n.failure(Stat) != nil:
		err = n.failure(Stat)
	case n.kind == unknown && !n.moded && n.errs == nil:
		err = t.missing()
	}
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return n.info(base(name)), nil
}

// Open opens a file or directory for reading.
func (t *Tree) Open(name string) (fs.File, error) {
	n, err := t.find(name, true)
	switch {
	case err != nil:
	case n.kind == directory:
		err = n.listable(t)
	default:
		err = n.readable(t)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if n.kind == directory {
		return &openDir{info: n.info(base(name)), entries: n.entries()}, nil
	}
	return &openFile{info: n.info(base(name)), data: n.data}, nil
}

func (t *Tree) missing() error {
	if t.Missing != nil {
		return t.Missing
	}
	return fs.ErrNotExist
}

// find returns the node of a name or the bare error.
func (t *Tree) find(name string, follow bool) (*node, error) {
	_, n, err := t.resolve(name, follow)
	if err == nil && n == nil {
		err = t.missing()
	}
	return n, err
}

// resolve follows a name from the root and returns where it ends without any
// link, and the node there, nil if nothing is stored. The path is given for
// missing nodes too, so that a file can be written behind a link whose target
// does not exist yet.
func (t *Tree) resolve(name string, follow bool) ([]string, *node, error) {
	if !fs.ValidPath(name) || len(name) > maxPath {
		return nil, nil, fs.ErrInvalid
	}
	var path []string
	nodes := []*node{t.root}
	pending, links, dangling := name, 0, false
	for pending != "" {
		part, rest, _ := strings.Cut(pending, "/")
		pending = rest
		if part == "" || part == "." {
			continue
		}
		parent := nodes[len(nodes)-1]
		if parent != nil && parent.kind == file {
			return nil, nil, ErrNotDir
		}
		if part == ".." {
			dangling = dangling || parent == nil
			if len(path) > 0 {
				path, nodes = path[:len(path)-1], nodes[:len(nodes)-1]
			}
			continue
		}
		var child *node
		if parent != nil {
			child = parent.children[part]
		}
		if child == nil || child.kind != link || (!follow && pending == "") {
			path, nodes = append(path, part), append(nodes, child)
			continue
		}
		if links++; links > maxLinks {
			return nil, nil, ErrLoop
		}
		if strings.HasPrefix(child.target, "/") {
			path, nodes = path[:0], nodes[:1]
		}
		pending = child.target + "/" + pending
		if rest == "" {
			pending = strings.TrimRight(child.target, "/")
		}
	}
	if dangling {
		return path, nil, nil
	}
	return path, nodes[len(nodes)-1], nil
}

// change returns the node of a name for changing, creating it and what is above it.
func (t *Tree) change(op, name string, follow bool) (*node, error) {
	path, _, err := t.resolve(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return t.descend(path), nil
}

// descend walks a path without links, making every node on it changeable.
func (t *Tree) descend(path []string) *node {
	own := t.owner.Load()
	t.root = t.root.owned(own)
	n := t.root
	for i, part := range path {
		if i > 0 && n.kind == unknown && !t.Strict {
			n.kind = directory
		}
		n = n.child(part, own, !t.Strict)
	}
	return n
}

// owned returns the node itself if this tree may change it, else a copy.
func (n *node) owned(own *owner) *node {
	if n.owner == own {
		return n
	}
	c := *n
	c.owner = own
	if n.children != nil {
		c.children = make(map[string]*node, len(n.children))
		for key, child := range n.children {
			c.children[key] = child
		}
	}
	return &c
}

// child returns the changeable child of a changeable node; a new one appears in
// listings if named.
func (n *node) child(name string, own *owner, named bool) *node {
	if n.children == nil {
		n.children = make(map[string]*node)
	}
	c := n.children[name]
	if c == nil {
		c = &node{owner: own, named: named}
	} else if c = c.owned(own); c == n.children[name] {
		return c
	}
	n.children[name] = c
	return c
}

func (n *node) failure(op Op) error {
	if n.errs == nil {
		return nil
	}
	return n.errs[op]
}

func (n *node) readable(t *Tree) error {
	switch {
	case n.failure(Read) != nil:
		return n.failure(Read)
	case n.kind == directory:
		return ErrIsDir
	case n.kind != file:
		return t.missing()
	}
	return nil
}

func (n *node) listable(t *Tree) error {
	switch {
	case n.failure(List) != nil:
		return n.failure(List)
	case n.kind == file:
		return ErrNotDir
	case n.kind != directory:
		return t.missing()
	}
	return nil
}

func (n *node) entries() []fs.DirEntry {
	keys := sorted(n.children, true)
	infos := make([]info, len(keys))
	entries := make([]fs.DirEntry, len(keys))
	for i, key := range keys {
		child := n.children[key]
		infos[i] = *child.info(key)
		if child.typed {
			infos[i].mode = child.shown | infos[i].mode.Perm()
		}
		entries[i] = &infos[i]
	}
	return entries
}

func sorted(children map[string]*node, namedOnly bool) []string {
	keys := make([]string, 0, len(children))
	for key, child := range children {
		if child.named || !namedOnly {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Permissions where nobody set any: those of most files of procfs and sysfs.
const (
	filePerm = 0o644
	dirPerm  = 0o755
	linkPerm = 0o777
)

func (n *node) info(name string) *info {
	i := &info{name: name, size: int64(len(n.data)), mode: filePerm}
	switch {
	case n.moded:
		i.mode = n.mode
	case n.kind == directory:
		i.mode = fs.ModeDir | dirPerm
	case n.kind == link:
		i.mode = fs.ModeSymlink | linkPerm
	}
	return i
}

// info is both what Stat answers and an entry of a listing.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i *info) Name() string               { return i.name }
func (i *info) Size() int64                { return i.size }
func (i *info) Mode() fs.FileMode          { return i.mode }
func (i *info) Type() fs.FileMode          { return i.mode.Type() }
func (i *info) ModTime() time.Time         { return time.Time{} }
func (i *info) IsDir() bool                { return i.mode.IsDir() }
func (i *info) Sys() any                   { return nil }
func (i *info) Info() (fs.FileInfo, error) { return i, nil }
func (i *info) String() string             { return fs.FormatFileInfo(i) }

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// openFile reads the tree's own memory.
type openFile struct {
	info *info
	data []byte
	at   int
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

func (f *openFile) Read(p []byte) (int, error) {
	if f.at >= len(f.data) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, f.data[f.at:])
	f.at += n
	return n, nil
}

// openDir lists what the directory held when it was opened.
type openDir struct {
	info    *info
	entries []fs.DirEntry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: ErrIsDir}
}

func (d *openDir) ReadDir(count int) ([]fs.DirEntry, error) {
	if count <= 0 {
		rest := d.entries
		d.entries = nil
		return rest, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	count = min(count, len(d.entries))
	part := d.entries[:count]
	d.entries = d.entries[count:]
	return part, nil
}

var (
	_ fs.ReadFileFS  = (*Tree)(nil)
	_ fs.ReadDirFS   = (*Tree)(nil)
	_ fs.StatFS      = (*Tree)(nil)
	_ fs.ReadLinkFS  = (*Tree)(nil)
	_ fs.ReadDirFile = (*openDir)(nil)
)
