package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// entry is one member of a test archive.
type entry struct {
	name, data, link string
	kind             byte
	size             int64 // declared, if it lies
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o644, Size: int64(len(e.data))}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.size > 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // fails on purpose where the size lies
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	return w.EncodeAll(data, nil)
}

func xzed(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readSmall(data []byte) (*Capture, error) {
	return read(bytes.NewReader(data), limits{total: 1 << 20, member: 1 << 18, members: 200})
}

func TestHostileArchives(t *testing.T) {
	good := entry{name: "proc/stat", data: "cpu 1\n"}
	dark := make([]byte, 4<<20)
	for _, c := range []struct {
		name string
		data []byte
		want string // in the error
	}{
		{"parent path", tarball(t, good, entry{name: "proc/../../etc/passwd", data: "x"}), `leaves the root`},
		{"absolute path", tarball(t, good, entry{name: "/proc/stat", data: "x"}), `leaves the root`},
		{"parent path in text", []byte("-- proc/stat --\n-- ../x --\n"), `leaves the root`},
		{"hard link outwards", tarball(t, good, entry{name: "proc/x", link: "../../etc/passwd", kind: tar.TypeLink}), `leaves the root`},
		{"huge declared size", tarball(t, good, entry{name: "proc/big", size: 1 << 40}), "proc/big has 1099511627776 bytes"},
		{"member over the bound", tarball(t, entry{name: "proc/big", data: string(dark[:1<<19])}), "proc/big has 524288 bytes, more than 262144"},
		{"cut member", tarball(t, good, entry{name: "proc/cut", data: "abc", size: 1000}), "proc/cut ends after 3 of 1000 bytes"},
		{"cut gzip", gzipped(t, tarball(t, good))[:60], "gzip data: "},
		{"cut zstd", zstded(t, tarball(t, good, entry{name: "proc/x", data: strings.Repeat("abc", 999)}))[:40], "zstd data: "},
		{"cut xz", xzed(t, tarball(t, good))[:80], "xz data: "},
		{"xz with a huge dictionary", append(append([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46"), 2, 0, 0x21, 1, 40, 0, 0, 0), dark[:64]...), "a dictionary of 2^32 bytes"},
		{"gzip header alone", []byte("\x1f\x8b\x08"), "gzip data: unexpected EOF"},
		{"bzip2 header alone", []byte("BZh9"), "bzip2 data: "},
		{"bomb of gzip", gzipped(t, tarball(t, entry{name: "var/log/x", data: string(dark)})), "more than 1048576 bytes unpacked"},
		{"bomb of zstd", zstded(t, tarball(t, entry{name: "var/log/x", data: string(dark)})), "more than 1048576 bytes unpacked"},
		{"bomb of text", gzipped(t, append([]byte("-- proc/x --\n"), bytes.Repeat([]byte("x"), 1<<19)...)), "more than 262144 bytes of text"},
		{"long name", tarball(t, good, entry{name: "proc/" + strings.Repeat("x/", 4000) + "y", data: "x"}), "a name of 8006 bytes"},
		{"long link", tarball(t, good, entry{name: "proc/l", link: strings.Repeat("x/", 4000), kind: tar.TypeSymlink}), "a link target of 8000 bytes"},
		{"many text members", []byte(strings.Repeat("-- proc/x --\n", 1000)), "more than 200 members"},
		{"nothing", nil, "neither a tar archive nor a text capture"},
		{"zeroes", dark[:2048], "neither a text capture nor a tar archive"},
		{"some text", []byte("hello\n"), `no line "-- NAME --"`},
		{"no host", tarball(t, entry{name: "home/x", data: "x"}), "no captured host: expected proc/, sys/ or sos_commands/"},
		{"empty tar", tarball(t), "neither"},
		{"two hosts", tarball(t, entry{name: "a/proc/stat"}, entry{name: "b/proc/stat"}), "several captured hosts (a, b, …)"},
		{"two folders down", tarball(t, entry{name: "a/b/proc/stat"}), "no captured host"},
		{"capture of the future", []byte("-- napitune-capture.json --\n{\"format\":99,\"samples\":[{}]}\n"), "format 99"},
		{"capture without samples", []byte("-- napitune-capture.json --\n{\"format\":1}\n"), "0 samples"},
		{"capture with too many", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[" + strings.Repeat("{},", 5000) + "{}]}\n"), "5001 samples"},
		{"damaged index", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{}]}\n-- t0.index --\n{\"op\":\"read\",\"name\":\"../x\"}\n"), `"../x" is no path`},
		{"index without content", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{}]}\n-- t0.index --\n{\"op\":\"read\",\"name\":\"x\",\"data\":\"t0/x\"}\n"), "is not there"},
		{"damaged base64", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{}]}\n-- t0.index --\n{\"op\":\"read\",\"name\":\"x\",\"data\":\"t0/x\",\"encoding\":\"base64\"}\n-- t0/x --\n!\n"), "illegal base64"},
		{"unknown field", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{}]}\n-- t0.calls --\n{\"cal\":1}\n"), "unknown field"},
		{"damaged probes", []byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{}]}\n-- t0.probes --\n{\n"), "no JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readSmall(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if got != nil {
				t.Errorf("a capture with error %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 600) {
				t.Errorf("error is not one line: %q", err)
			}
		})
	}
}

// TestMillionMembers opens an archive of a million tiny files under the real bounds.
func TestMillionMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("packs a million files: not in short mode")
	}
	// One header, repeated: writing each would take longer than reading.
	head := tarball(t, entry{name: "proc/a"})[:512]
	pack, unpacked := io.Pipe()
	go func() {
		w, _ := gzip.NewWriterLevel(unpacked, gzip.BestSpeed)
		block := bytes.Repeat(head, 1000)
		for range 1000 {
			if _, err := w.Write(block); err != nil {
				break
			}
		}
		_ = unpacked.CloseWithError(w.Close())
	}()
	start := time.Now()
	_, err := Read(pack)
	_ = pack.Close()
	if err == nil || !strings.Contains(err.Error(), "more than 500000 members") {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestHarmlessOddities(t *testing.T) {
	c, err := readSmall(tarball(t,
		entry{name: "./root/", kind: tar.TypeDir}, entry{name: "root/SOURCE.txt", data: "x"},
		entry{name: "root/proc/dev", kind: tar.TypeChar}, entry{name: "root/proc/pipe", kind: tar.TypeFifo},
		entry{name: "root/proc/stat", data: "old\n"}, entry{name: "./root/proc/stat", data: "cpu 1\nbtime 1000\n"},
		entry{name: "root/proc/uptime", data: "12.5 3\n"},
		entry{name: "root/proc/hard", link: "root/proc/stat", kind: tar.TypeLink}, entry{name: "root/proc/lost", link: "root/proc/none", kind: tar.TypeLink},
		entry{name: "root/sys/abs", link: "/proc/stat", kind: tar.TypeSymlink}, entry{name: "root/sys/up", link: "../../../../../proc/stat", kind: tar.TypeSymlink},
		entry{name: "root/sys/loop", link: "loop/x", kind: tar.TypeSymlink}, entry{name: "root/sys/out", link: "/etc/shadow", kind: tar.TypeSymlink},
		entry{name: "root/t10/proc/x", data: "10\n"}, entry{name: "root/t2/proc/x", data: "2\n"}, entry{name: "root/t2/proc/stat", data: "two\n"},
		entry{name: "root/t02/proc/x", data: "odd\n"},
		entry{name: "root/sys/\xff", data: "x"}, entry{name: "root/proc/stat/below", data: "x"},
	))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, h := range c.Samples {
		for _, name := range []string{"proc/x", "proc/stat", "proc/hard", "sys/abs", "sys/up"} {
			data, err := h.ReadFile(name)
			got = append(got, fmt.Sprintf("%d %s %q %v", i, name, data, err))
		}
		for _, name := range []string{"sys/loop", "sys/out", "proc/none"} {
			if _, err := h.ReadFile(name); err == nil {
				t.Errorf("%s could be read", name)
			}
		}
	}
	one := `"cpu 1\nbtime 1000\n" <nil>`
	want := []string{
		`0 proc/x "2\n" <nil>`, `0 proc/stat "two\n" <nil>`, "0 proc/hard " + one, `0 sys/abs "two\n" <nil>`, `0 sys/up "two\n" <nil>`,
		`1 proc/x "10\n" <nil>`, "1 proc/stat " + one, "1 proc/hard " + one, "1 sys/abs " + one, "1 sys/up " + one,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if want := time.Unix(1012, 5e8).UTC(); !c.Times[1].Equal(want) || !c.Times[0].IsZero() {
		t.Errorf("times %v, want zero and %v", c.Times, want)
	}
	for _, want := range []string{"proc/dev skipped", "proc/pipe skipped", "proc/stat is there more than once", "proc/lost skipped: hard link", "cannot be used", "proc/stat/below skipped"} {
		if !strings.Contains(strings.Join(c.Notes, "\n"), want) {
			t.Errorf("no note %q in %q", want, c.Notes)
		}
	}
}

func TestForms(t *testing.T) {
	members := []entry{{name: "h/proc/stat", data: "cpu 1\n"}, {name: "h/sys/kernel/x", data: "y\n"}}
	plain := tarball(t, members...)
	old := bytes.Clone(plain) // a tar of 1979 has no magic
	for at := 0; at < 2048; at += 1024 {
		copy(old[at+257:at+265], make([]byte, 8))
		sum := 0
		for i, c := range old[at : at+512] {
			if i >= 148 && i < 156 {
				c = ' '
			}
			sum += int(c)
		}
		copy(old[at+148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	folder := t.TempDir()
	for _, e := range members {
		file := filepath.Join(folder, filepath.FromSlash(e.name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(e.data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(folder, filepath.Join(folder, "h", "proc", "loop")); err != nil {
		t.Fatal(err)
	}
	forms := map[string][]byte{
		"tar": plain, "old tar": old, "gzip": gzipped(t, plain), "zstd": zstded(t, plain), "xz": xzed(t, plain),
		"text": []byte("comment\n-- h/proc/stat --\ncpu 1\n-- h/sys/kernel/x --\ny\n"),
	}
	paths := map[string]string{"folder": filepath.Join(folder, "h"), "folder above": folder}
	for form, data := range forms {
		paths[form] = filepath.Join(t.TempDir(), "misleading.bz2")
		if err := os.WriteFile(paths[form], data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for form, path := range paths {
		c, err := Open(path)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		for _, e := range members {
			data, err := c.Samples[0].ReadFile(strings.TrimPrefix(e.name, "h/"))
			if err != nil || string(data) != e.data {
				t.Errorf("%s: %s: %q, %v", form, e.name, data, err)
			}
		}
	}
}

func TestOpenErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := Open(missing); err == nil || strings.Count(err.Error(), missing) != 1 {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "expected proc/") {
		t.Errorf("empty folder: %v", err)
	}
	if runtime.GOOS != "linux" {
		return // no /proc/self
	}
	if _, err := Open("/"); err == nil || !strings.Contains(err.Error(), "running system") {
		t.Errorf("the running system: %v", err)
	}
}

func TestWanted(t *testing.T) {
	for name, want := range map[string]bool{
		"proc/stat": true, "h/proc/stat": true, "h/t0/proc/stat": true, "t3/sys": true, "a/b/c/proc/stat": false,
		"sos_commands/networking/x": true, "h/etc/os-release": true, "etc/passwd": false, "boot/config-6.1": true, "boot/vmlinuz": false,
		"var/log/messages": false, "process/x": false, "h/procfs": false,
	} {
		if got := wanted(name); got != want {
			t.Errorf("wanted(%s) = %v", name, got)
		}
	}
}

func FuzzOpen(f *testing.F) {
	tarred := tarball(f, entry{name: "proc/stat", data: "cpu 1\n"}, entry{name: "sys/l", link: "l", kind: tar.TypeSymlink},
		entry{name: "t1/sos_commands/networking/ethtool_-i_eth0", data: "driver: x\n"})
	for _, seed := range [][]byte{tarred, gzipped(f, tarred), zstded(f, tarred), xzed(f, tarred),
		[]byte("-- t0/proc/stat --\ncpu\n-- t1/sos_commands/processor/lscpu_-p --\n0 0\n"),
		[]byte("-- napitune-capture.json --\n{\"format\":1,\"samples\":[{},{}]}\n-- t0.index --\n{\"op\":\"link\",\"name\":\"a\",\"target\":\"b\"}\n{\"op\":\"list\",\"name\":\"c\",\"entries\":[\"dx\"]}\n{\"op\":\"stat\",\"name\":\"c\",\"error\":{\"text\":\"x\",\"is\":[\"EIO\"]}}\n-- t0/a/b --\nx\n-- t1.calls --\n{\"call\":\"links\",\"value\":[]}\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := readSmall(data)
		if (c == nil) != (err != nil) {
			t.Fatalf("capture %v with error %v", c, err)
		}
		if err != nil {
			return
		}
		for _, h := range c.Samples {
			_, _ = h.Ident()
			_, _ = h.Links()
			_, _ = h.Processes()
			_, _ = h.Ethtool.Stats("eth0")
			_, _ = h.Netdev.NAPIs()
			_ = fs.WalkDir(h.FS, ".", func(name string, _ fs.DirEntry, err error) error {
				if !fs.ValidPath(name) {
					t.Errorf("name %q", name)
				}
				_, _ = h.ReadFile(name)
				return nil
			})
		}
	})
}
