package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/tools/txtar"
)

// Bounds of an archive, which is untrusted input.
const (
	// maxTotal bounds everything unpacked, in bytes. The interrupts of a
	// 1,152-CPU host have 13 MB, a large sosreport has some hundred.
	maxTotal = 1 << 30
	// maxMember bounds one file, in bytes.
	maxMember = 256 << 20
	// maxMembers bounds the number of files, links and directories; the
	// sysfs tree of a large host has about 100,000.
	maxMembers = 500_000
	// maxName bounds a path and a link target in bytes (PATH_MAX).
	maxName = 4096
	// maxReserve bounds the memory taken on the word of a header alone, in bytes.
	maxReserve = 32 << 20
	// maxWindow bounds the window of zstd and the dictionary of xz, in bytes:
	// what zstd itself accepts without --long and eight times what xz -9 uses.
	maxWindow = 128 << 20
	// maxNotes bounds Capture.Notes: a hostile archive could have one per member.
	maxNotes = 100
)

type limits struct {
	total, member, members int64
}

func defaultLimits() limits {
	return limits{total: maxTotal, member: maxMember, members: maxMembers}
}

type memberKind uint8

const (
	memberFile memberKind = iota
	memberDir
	memberLink
)

// member is one file, directory or symbolic link of an archive or folder.
type member struct {
	name   string // clean, without leading slash
	kind   memberKind
	data   []byte
	target string
}

// bundle is what was unpacked: members in order, or the text of a capture.
type bundle struct {
	limits  limits
	members []member
	index   map[string]int // by name
	notes   []string
	unnoted int
	comment string
	// recorded are the members of a capture of napitune, nil for anything else.
	recorded []txtar.File
	seen     int64 // members met, also those not kept
	used     int64 // bytes kept so far
}

func newBundle(l limits) *bundle { return &bundle{limits: l, index: map[string]int{}} }

func (b *bundle) note(format string, args ...any) {
	if len(b.notes) >= maxNotes {
		b.unnoted++
		return
	}
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// count counts a member, kept or not.
func (b *bundle) count() error {
	if b.seen++; b.seen > b.limits.members {
		return fmt.Errorf("more than %d members", b.limits.members)
	}
	return nil
}

// add keeps a member; the last one of a name wins.
func (b *bundle) add(m member) error {
	if i, ok := b.index[m.name]; ok {
		if m.kind == memberDir && b.members[i].kind == memberDir {
			return nil
		}
		b.note("%s is there more than once: the last one counts", shorten(m.name))
		b.members[i] = m
		return nil
	}
	b.index[m.name] = len(b.members)
	b.members = append(b.members, m)
	return nil
}

// spend counts bytes against the total.
func (b *bundle) spend(n int64) error {
	b.used += n
	if b.used > b.limits.total {
		return fmt.Errorf("more than %d bytes unpacked", b.limits.total)
	}
	return nil
}

// cleanName turns the name of a member into one that stays below the root. The
// second result is false for names that cannot be used and do no harm.
func cleanName(name string) (string, bool, error) {
	if len(name) > maxName {
		return "", false, fmt.Errorf("a name of %d bytes, more than %d", len(name), maxName)
	}
	if strings.HasPrefix(name, "/") {
		return "", false, fmt.Errorf("member %q leaves the root: absolute path", shorten(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", false, fmt.Errorf("member %q leaves the root", shorten(name))
		}
	}
	clean := path.Clean(name)
	return clean, fs.ValidPath(clean) && clean != "." && !strings.ContainsRune(clean, 0), nil
}

// shorten keeps error texts readable whatever the archive says.
func shorten(s string) string {
	const keep = 120
	if len(s) > keep {
		s = s[:keep] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// unpack decides by magic bytes what r is and reads it.
func unpack(r io.Reader, l limits) (*bundle, error) {
	b := newBundle(l)
	plain, err := decompress(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, err
	}
	defer plain.close()
	bounded := &boundedReader{r: plain.reader, limit: l.total, left: l.total}
	in := bufio.NewReaderSize(bounded, 64<<10)
	head, err := in.Peek(512)
	if len(head) == 0 && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s data: %w", plain.form, err)
	}
	if isTar(head) {
		err = b.readTar(in)
	} else {
		err = b.readText(in, head)
	}
	if err != nil && plain.form != "" {
		err = fmt.Errorf("%s data: %w", plain.form, err)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// boundedReader fails, where io.LimitReader would end.
type boundedReader struct {
	r           io.Reader
	limit, left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.tooLarge()
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.tooLarge()
	}
	return n, err
}

func (b *boundedReader) tooLarge() error {
	return fmt.Errorf("more than %d bytes unpacked", b.limit)
}

type plainStream struct {
	reader io.Reader
	form   string // "gzip", …; "" if it was not compressed
	close  func()
}

func decompress(in *bufio.Reader) (plainStream, error) {
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return plainStream{}, fmt.Errorf("read: %w", err)
	}
	plain := plainStream{reader: in, close: func() {}}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		plain.form = "gzip"
		plain.reader, err = gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		plain.form = "zstd"
		var d *zstd.Decoder
		d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxTotal))
		if err == nil {
			plain.reader, plain.close = d, d.Close
		}
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		plain.form = "xz"
		if err = checkDictionary(in); err == nil {
			plain.reader, err = xz.NewReader(in)
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		plain.form, plain.reader = "bzip2", bzip2.NewReader(in)
	default:
		err = nil
	}
	if err != nil {
		return plainStream{}, fmt.Errorf("%s data: %w", plain.form, unexpected(err))
	}
	return plain, nil
}

// checkDictionary refuses an xz stream whose first block asks for a huge
// dictionary, because the decoder takes that memory at once. Later blocks are
// not looked at: they only reserve what maxTotal keeps from being used. The
// offsets are those of the .xz file format, sections 2.1.1, 3.1 and 5.3.1.
func checkDictionary(in *bufio.Reader) error {
	const flags, lzma2 = 13, 0x21
	head, err := in.Peek(12 + 8)
	if err != nil {
		return err
	}
	filter := flags + 1
	if head[12] == 0 || head[flags]&0xc3 != 0 || head[filter] != lzma2 {
		return nil // an empty stream, or a form for the decoder to judge
	}
	bits := head[filter+2]
	if size := (2 | int64(bits&1)) << (bits>>1 + 11); bits > 40 || size > maxWindow {
		return fmt.Errorf("a dictionary of 2^%d bytes or more", bits>>1+12)
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// isTar recognises the first block of a tar archive, by the magic of POSIX and
// GNU tar or by the checksum of older ones.
func isTar(head []byte) bool {
	const size, magic, sum = 512, 257, 148
	if len(head) < size {
		return false
	}
	if bytes.HasPrefix(head[magic:], []byte("ustar")) {
		return true
	}
	want, err := strconv.ParseInt(strings.Trim(string(head[sum:sum+8]), " \x00"), 8, 64)
	if err != nil || want == 0 {
		return false
	}
	var got int64
	for i, c := range head {
		if i >= sum && i < sum+8 {
			c = ' '
		}
		got += int64(c)
	}
	return got == want
}

func (b *bundle) readTar(in io.Reader) error {
	r := tar.NewReader(in)
	last := "the start"
	for {
		header, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tar archive damaged after %s: %w", shorten(last), unexpected(err))
		}
		last = header.Name
		if err := b.count(); err != nil {
			return err
		}
		if err := b.readMember(r, header); err != nil {
			return err
		}
	}
}

func (b *bundle) readMember(r *tar.Reader, header *tar.Header) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, usable, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	if !usable || !wanted(name) {
		if !usable && name != "." {
			b.note("%q skipped: the name cannot be used", shorten(header.Name))
		}
		return nil
	}
	m := member{name: name}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if m.data, err = b.readData(r, name, header.Size); err != nil {
			return err
		}
	case tar.TypeDir:
		m.kind = memberDir
	case tar.TypeSymlink:
		m.kind, m.target = memberLink, header.Linkname
		if len(m.target) > maxName {
			return fmt.Errorf("%s: a link target of %d bytes, more than %d", shorten(name), len(m.target), maxName)
		}
	case tar.TypeLink:
		return b.hardLink(name, header.Linkname)
	default:
		b.note("%s skipped: neither file, folder nor link (tar type %q)", shorten(name), header.Typeflag)
		return nil
	}
	return b.add(m)
}

// hardLink gives an earlier member a second name.
func (b *bundle) hardLink(name, target string) error {
	clean, _, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link %s: %w", shorten(name), err)
	}
	i, ok := b.index[clean]
	if !ok || b.members[i].kind == memberDir {
		b.note("%s skipped: hard link to %s, which is not there", shorten(name), shorten(target))
		return nil
	}
	m := b.members[i]
	m.name = name
	return b.add(m)
}

// readData reads one file into memory of its declared size, so that a large
// one is held once.
func (b *bundle) readData(r io.Reader, name string, size int64) ([]byte, error) {
	if size < 0 || size > b.limits.member {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", shorten(name), size, b.limits.member)
	}
	if b.used+size > b.limits.total {
		return nil, fmt.Errorf("%s: more than %d bytes unpacked", shorten(name), b.limits.total)
	}
	data := make([]byte, 0, min(size, maxReserve))
	for int64(len(data)) < size {
		if len(data) == cap(data) {
			data = append(make([]byte, 0, min(size, 2*int64(cap(data)))), data...)
		}
		n, err := io.ReadFull(r, data[len(data):min(int64(cap(data)), size)])
		data = data[:len(data)+n]
		if err != nil && int64(len(data)) < size {
			return nil, fmt.Errorf("%s ends after %d of %d bytes: %w", shorten(name), len(data), size, unexpected(err))
		}
	}
	return data, b.spend(size)
}

// readText reads the members of a text archive. A text that has none is no
// capture; neither is anything with a NUL byte at its start.
func (b *bundle) readText(in io.Reader, head []byte) error {
	if bytes.IndexByte(head, 0) >= 0 {
		return errors.New("neither a text capture nor a tar archive")
	}
	text, err := io.ReadAll(io.LimitReader(in, b.limits.member+1))
	if err != nil {
		return unexpected(err)
	}
	if int64(len(text)) > b.limits.member {
		return fmt.Errorf("more than %d bytes of text", b.limits.member)
	}
	if bytes.Count(text, []byte("\n-- ")) > int(b.limits.members) {
		return fmt.Errorf("more than %d members", b.limits.members)
	}
	if err := b.spend(int64(len(text))); err != nil {
		return err
	}
	parsed := txtar.Parse(text)
	files := parsed.Files
	if len(files) == 0 {
		return errors.New(`neither a tar archive nor a text capture: no line "-- NAME --"`)
	}
	b.comment = string(parsed.Comment)
	if files[0].Name == headerFile {
		b.recorded = files
		return nil
	}
	for _, f := range files {
		name, usable, err := cleanName(f.Name)
		if err != nil {
			return err
		}
		if !usable {
			b.note("%q skipped: the name cannot be used", shorten(f.Name))
			continue
		}
		if err := b.count(); err != nil {
			return err
		}
		if err := b.add(member{name: name, data: f.Data}); err != nil {
			return err
		}
	}
	return nil
}

// readFolder reads an unpacked host, never following a link.
func (b *bundle) readFolder(root string) error {
	if target, err := os.Readlink(filepath.Join(root, "proc", "self")); err == nil && target == strconv.Itoa(os.Getpid()) {
		return errors.New("this is the running system, not a captured one")
	}
	confined, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = confined.Close() }()
	return fs.WalkDir(confined.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			return err
		case err != nil:
			b.note("%s skipped: %v", shorten(name), bare(err))
			return nil
		case name == ".":
			return nil
		}
		if err := b.count(); err != nil {
			return err
		}
		if !wanted(name) {
			if entry.IsDir() && strings.Count(name, "/") >= maxDepth {
				return fs.SkipDir
			}
			return nil
		}
		return b.addEntry(confined, name, entry)
	})
}

func (b *bundle) addEntry(root *os.Root, name string, entry fs.DirEntry) error {
	if !fs.ValidPath(name) || len(name) > maxName {
		b.note("%q skipped: the name cannot be used", shorten(name))
		return nil
	}
	m := member{name: name}
	switch {
	case entry.IsDir():
		m.kind = memberDir
	case entry.Type() == fs.ModeSymlink:
		target, err := root.Readlink(filepath.FromSlash(name))
		if err != nil {
			b.note("%s skipped: %v", shorten(name), bare(err))
			return nil
		}
		m.kind, m.target = memberLink, filepath.ToSlash(target)
	case entry.Type().IsRegular():
		data, skip, err := b.readRegular(root, name)
		if err != nil {
			return err
		}
		if skip != nil {
			b.note("%s skipped: %v", shorten(name), bare(skip))
			return nil
		}
		m.data = data
	default:
		b.note("%s skipped: neither file, folder nor link", shorten(name))
		return nil
	}
	return b.add(m)
}

// readRegular reads a file of a folder. What cannot be read is skipped, what is
// too large is an error.
func (b *bundle) readRegular(root *os.Root, name string) (data []byte, skip, err error) {
	file, skip := root.Open(filepath.FromSlash(name))
	if skip != nil {
		return nil, skip, nil
	}
	defer func() { _ = file.Close() }()
	info, skip := file.Stat()
	if skip != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(skip, errors.New("no regular file")), nil
	}
	if info.Size() > b.limits.member {
		return nil, nil, fmt.Errorf("%s has %d bytes, more than %d", shorten(name), info.Size(), b.limits.member)
	}
	// The size is a hint only: files of a mounted procfs say zero.
	var content bytes.Buffer
	content.Grow(int(min(info.Size(), maxReserve)) + bytes.MinRead)
	n, skip := content.ReadFrom(io.LimitReader(file, b.limits.member+1))
	if skip != nil {
		return nil, skip, nil
	}
	if n > b.limits.member {
		return nil, nil, fmt.Errorf("%s has more than %d bytes", shorten(name), b.limits.member)
	}
	if err := b.spend(n); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", shorten(name), err)
	}
	return content.Bytes(), nil, nil
}

// bare drops the path that os puts into errors, because the note has it already.
func bare(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}
