package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// must fails the test on the error of a change that has to work.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func names(entries []fs.DirEntry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

var errBusy = errors.New("device busy")
var errUnknown = errors.New("not known")

func TestStandardSuite(t *testing.T) {
	tr := New()
	must(t, tr.WriteFile("proc/interrupts", []byte("CPU0\n")),
		tr.WriteFile("proc/empty", nil),
		tr.WriteFile("sys/devices/pci0/net/eth0/mtu", []byte("1500\n")),
		tr.Mkdir("sys/class/net"),
		tr.Symlink("sys/class/net/eth0", "../../devices/pci0/net/eth0"))
	if err := fstest.TestFS(copying{tr}, "proc/interrupts", "proc/empty", "sys/devices/pci0/net/eth0/mtu"); err != nil {
		t.Error(err)
	}
}

// copying gives the suite its own bytes: it scribbles over what ReadFile
// returns, which a Tree forbids.
type copying struct{ *Tree }

func (c copying) ReadFile(name string) ([]byte, error) {
	data, err := c.Tree.ReadFile(name)
	return slices.Clone(data), err
}

func TestReadFile(t *testing.T) {
	tr := New()
	must(t, tr.WriteFile("a/file", []byte("x")),
		tr.Symlink("rel", "a/file"), tr.Symlink("abs", "/a/file"), tr.Symlink("dir", "a"),
		tr.Symlink("up", "../../../a/file"), tr.Symlink("a/self", "../a/./file"),
		tr.Symlink("loop1", "loop2"), tr.Symlink("loop2", "/loop1"), tr.Symlink("me", "me/me"),
		tr.Symlink("dangling", "nowhere"), tr.Symlink("through", "nowhere/../a/file"),
		tr.Symlink("badup", "a/file/../file"),
		tr.Fail("a/bad", errBusy), tr.Fail("a/gone", fs.ErrNotExist),
		tr.SetDir("listed", []string{"x"}))
	for _, c := range []struct {
		name string
		want error
	}{
		{"a/file", nil}, {"rel", nil}, {"abs", nil}, {"dir/file", nil}, {"up", nil}, {"a/self", nil}, {"dir/self", nil},
		{"loop1", ErrLoop}, {"loop1/x", ErrLoop}, {"me", ErrLoop},
		{"dangling", fs.ErrNotExist}, {"through", fs.ErrNotExist}, {"badup", ErrNotDir},
		{"a", ErrIsDir}, {".", ErrIsDir}, {"a/file/x", ErrNotDir}, {"a/none", fs.ErrNotExist},
		{"a/bad", errBusy}, {"dir/bad", errBusy}, {"a/gone", fs.ErrNotExist}, {"listed/x", fs.ErrNotExist},
		{"../a/file", fs.ErrInvalid}, {"/a/file", fs.ErrInvalid}, {"", fs.ErrInvalid}, {strings.Repeat("x/", 4000) + "x", fs.ErrInvalid},
	} {
		data, err := tr.ReadFile(c.name)
		if !errors.Is(err, c.want) || (err == nil) != (string(data) == "x") {
			t.Errorf("ReadFile(%.40q) = %q, %v; want %v", c.name, data, err, c.want)
		}
		file, err := tr.Open(c.name)
		if c.want != ErrIsDir && (!errors.Is(err, c.want) || (file == nil) != (err != nil)) {
			t.Errorf("Open(%.40q) = %v, %v; want %v", c.name, file, err, c.want)
		}
	}
}

func TestLinkBound(t *testing.T) {
	tr := New()
	must(t, tr.WriteFile("l0", []byte("x")))
	for i := 1; i <= 41; i++ {
		must(t, tr.Symlink(fmt.Sprint("l", i), fmt.Sprint("l", i-1)))
	}
	if _, err := tr.ReadFile("l40"); err != nil {
		t.Errorf("40 links: %v", err)
	}
	if _, err := tr.ReadFile("l41"); !errors.Is(err, ErrLoop) {
		t.Errorf("41 links: %v, want %v", err, ErrLoop)
	}
}

func TestListings(t *testing.T) {
	tr := New()
	must(t, tr.WriteFile("d/b", nil), tr.WriteFile("d/a", nil), tr.WriteFile("d/sub/x", nil), tr.Symlink("d/l", "a"),
		tr.Fail("d/eperm", fs.ErrPermission), tr.Fail("d/gone", fs.ErrNotExist), tr.Mkdir("empty"))
	for _, c := range []struct {
		dir  string
		want []string
		err  error
	}{
		{"d", []string{"a", "b", "eperm", "l", "sub"}, nil},
		{"empty", nil, nil},
		{"d/a", nil, ErrNotDir}, {"d/eperm", nil, fs.ErrPermission}, {"d/none", nil, fs.ErrNotExist},
	} {
		got, err := tr.ReadDir(c.dir)
		if !errors.Is(err, c.err) || !slices.Equal(names(got), c.want) {
			t.Errorf("ReadDir(%s) = %v, %v; want %v, %v", c.dir, names(got), err, c.want, c.err)
		}
	}
	must(t, tr.SetEntries("d", []Entry{{"sub", fs.ModeDir}, {"new", fs.ModeSymlink}, {"a", 0}}))
	var got []string
	entries, _ := tr.ReadDir("d")
	for _, e := range entries {
		got = append(got, e.Name()+" "+e.Type().String())
	}
	if diff := cmp.Diff([]string{"a ----------", "new L---------", "sub d---------"}, got); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
	if _, err := tr.ReadFile("d/b"); err != nil {
		t.Errorf("file that the listing hides: %v", err)
	}
	must(t, tr.Remove("d/a"), tr.WriteFile("d/c", nil))
	entries, _ = tr.ReadDir("d")
	if diff := cmp.Diff([]string{"c", "new", "sub"}, names(entries)); diff != "" {
		t.Errorf("listing after changes (-want +got):\n%s", diff)
	}
	if err := tr.SetDir("d", []string{"../x"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("listing with a path: %v", err)
	}
}

func TestStrict(t *testing.T) {
	tr := New()
	tr.Strict, tr.Missing = true, errUnknown
	must(t, tr.WriteFile("sys/class/net/eth0/mtu", []byte("1500\n")),
		tr.SetDir("sys/class", []string{"net", "misc"}), tr.SetMode("sys/x", 0o444),
		tr.FailOp(Link, "sys/class/net/eth0/mtu", ErrNotLink))
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"listed", second(tr.ReadDir("sys/class")), nil},
		{"implied", second(tr.ReadDir("sys/class/net")), errUnknown},
		{"implied stat", second(tr.Stat("sys/class/net")), errUnknown},
		{"named only", second(tr.Stat("sys/class/misc")), errUnknown},
		{"below", second(tr.ReadFile("sys/class/net/eth0/mtu")), nil},
		{"other", second(tr.ReadFile("sys/class/net/eth1/mtu")), errUnknown},
		{"stat of mode", second(tr.Stat("sys/x")), nil},
		{"read of mode", second(tr.ReadFile("sys/x")), errUnknown},
		{"link", second(tr.ReadLink("sys/class/net/eth0/mtu")), ErrNotLink},
		{"no link", second(tr.ReadLink("sys/class/net/eth0")), errUnknown},
	} {
		if !errors.Is(c.err, c.want) || errors.Is(c.err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestWriteThroughLinks(t *testing.T) {
	tr := New()
	must(t, tr.Symlink("sys/class/net/eth0", "../../devices/eth0"),
		tr.WriteFile("sys/class/net/eth0/mtu", []byte("9000\n")))
	got, err := tr.ReadFile("sys/devices/eth0/mtu")
	if err != nil || string(got) != "9000\n" {
		t.Errorf("through the link: %q, %v", got, err)
	}
	if diff := cmp.Diff([]string{"sys/class/net/eth0", "sys/devices/eth0/mtu"}, tr.Paths()); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	must(t, tr.Symlink("a", "b"), tr.Symlink("b", "a"))
	for _, err := range []error{tr.WriteFile("a/x", nil), tr.Mkdir("a"), tr.Fail("a", errBusy)} {
		if !errors.Is(err, ErrLoop) {
			t.Errorf("change behind a loop: %v", err)
		}
	}
	for _, err := range []error{tr.Symlink("long", strings.Repeat("x", 5000)), tr.Symlink(".", "x"), tr.Symlink("e", ""), tr.Remove(".")} {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("bad change: %v", err)
		}
	}
	must(t, tr.Remove("b"))
	if _, err := tr.Lstat("a"); err != nil {
		t.Errorf("link beside a removed one: %v", err)
	}
	if err := tr.WriteFile("sys/devices/eth0/mtu/x", nil); !errors.Is(err, ErrNotDir) {
		t.Errorf("file below a file: %v", err)
	}
	if err := tr.WriteFile("sys/devices", nil); !errors.Is(err, ErrIsDir) {
		t.Errorf("file over a directory: %v", err)
	}
}

// dump is everything a tree can tell.
func dump(tr *Tree) map[string]string {
	m := map[string]string{}
	_ = tr.Walk(func(name string, info fs.FileInfo) error {
		data, err := tr.ReadFile(name)
		target, _ := tr.ReadLink(name)
		m[name] = fmt.Sprint(info.Mode(), string(data), target, err)
		return nil
	})
	return m
}

// TestCloneIsIndependent changes a family of clones at random and compares
// each with a tree that was built alone.
func TestCloneIsIndependent(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	type step func(*Tree)
	family, history := []*Tree{New()}, [][]step{nil}
	for range 400 {
		i := random.IntN(len(family))
		name := path.Join(fmt.Sprint("d", random.IntN(3)), fmt.Sprint("e", random.IntN(3)), fmt.Sprint("f", random.IntN(3)))
		value := fmt.Sprint(random.IntN(1000))
		var s step
		switch random.IntN(6) {
		case 0:
			s = func(tr *Tree) { _ = tr.Remove(path.Dir(name)) }
		case 1:
			s = func(tr *Tree) { _ = tr.Symlink(name, "../e0/f1") }
		case 2:
			s = func(tr *Tree) { _ = tr.SetDir(path.Dir(name), []string{"f0", "z"}) }
		case 3:
			s = func(tr *Tree) { _ = tr.Fail(name, errBusy) }
		default:
			s = func(tr *Tree) { _ = tr.WriteFile(name, []byte(value)) }
		}
		s(family[i])
		history[i] = append(history[i], s)
		if random.IntN(40) == 0 {
			family = append(family, family[i].Clone())
			history = append(history, slices.Clone(history[i]))
		}
	}
	for i, tr := range family {
		alone := New()
		for _, s := range history[i] {
			s(alone)
		}
		if diff := cmp.Diff(dump(alone), dump(tr)); diff != "" {
			t.Errorf("seed %d, clone %d differs (-alone +clone):\n%s", seed, i, diff)
		}
	}
}

func TestConcurrentCloneAndRead(t *testing.T) {
	base := New()
	must(t, base.WriteFile("proc/stat", []byte("cpu\n")))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			c := base.Clone()
			if err := c.WriteFile("proc/stat", []byte(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
			if _, err := base.ReadDir("proc"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got, _ := base.ReadFile("proc/stat"); string(got) != "cpu\n" {
		t.Errorf("base became %q", got)
	}
}

func TestReadFileDoesNotCopy(t *testing.T) {
	tr := New()
	must(t, tr.WriteFile("big", make([]byte, 1<<20)))
	if n := testing.AllocsPerRun(100, func() { _, _ = tr.ReadFile("big") }); n > 4 {
		t.Errorf("%v allocations per read, want the few of the path", n)
	}
	first, _ := tr.ReadFile("big")
	second, _ := tr.ReadFile("big")
	if &first[0] != &second[0] {
		t.Error("two reads gave two copies")
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("a/b", "../c", "c/d")
	f.Add("l", "/l/../l", "l/x")
	f.Add("0", "\xfc", "0")
	f.Fuzz(func(t *testing.T, link, target, name string) {
		tr := New()
		_ = tr.WriteFile("c/d", []byte("x"))
		_ = tr.Symlink(link, target)
		_ = tr.WriteFile(name, []byte("y"))
		data, err := tr.ReadFile(name)
		if err != nil && data != nil {
			t.Errorf("data with error %v", err)
		}
		for _, p := range tr.Paths() {
			if !fs.ValidPath(p) {
				t.Errorf("stored under %q", p)
			}
		}
	})
}

func BenchmarkReadFile(b *testing.B) {
	tr := New()
	must(b, tr.WriteFile("sys/devices/pci0/net/eth0/mtu", []byte("1500\n")), tr.Symlink("sys/class/net/eth0", "../../devices/pci0/net/eth0"))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = tr.ReadFile("sys/class/net/eth0/mtu")
	}
}
