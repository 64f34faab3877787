package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/napitune/napitune/lab/guest"
)

// Builder makes what guests boot from Debian packages, through the mirror that
// the system's own apt uses and without changing the system's configuration.
type Builder struct {
	Cache Cache
	Log   io.Writer // progress
}

// keyring signs what Debian publishes; the system's own keyring may be another
// distribution's.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// rootSuite is the release of Debian that guests run, whatever their kernel.
const rootSuite = "bookworm"

// rootPackages are in every guest. The Python modules are what tuning scripts
// that are compared with napitune are written with.
func rootPackages() []string {
	return strings.Fields(`systemd-sysv udev dbus kmod procps psmisc iproute2 iputils-ping ethtool irqbalance tuned tuned-utils
		python3-pyudev python3-psutil python3-yaml python3-prettytable python3-colorama python3-six pciutils hwloc-nox`)
}

// Build makes the image and the named kernels, unless they are in the cache.
// What is unfinished when an error or the context ends it is built again.
func (b Builder) Build(ctx context.Context, kernels ...string) error {
	if missing := Doctor(); len(missing) > 0 {
		return errors.New(InstallHint(missing))
	}
	if err := os.MkdirAll(b.Cache.Dir, 0o755); err != nil {
		return err
	}
	if err := b.unless(filepath.Join(b.Cache.Dir, emulatorDir), "emulator", func(dir string) error { return b.emulator(ctx, dir) }); err != nil {
		return err
	}
	for _, name := range kernels {
		k, err := FindKernel(name)
		if err != nil {
			return err
		}
		if err := b.unless(b.Cache.kernel(name, "release"), "kernel "+name, func(dir string) error { return b.kernel(ctx, k, dir) }); err != nil {
			return err
		}
	}
	return b.unless(b.Cache.root(), "root file system", func(dir string) error { return b.root(ctx, dir) })
}

// unless builds in a scratch directory unless the last file to appear is there.
func (b Builder) unless(marker, what string, build func(scratch string) error) error {
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	scratch, err := os.MkdirTemp(b.Cache.Dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	fmt.Fprintln(b.Log, "building the", what)
	if err := build(scratch); err != nil {
		return fmt.Errorf("build the %s: %w", what, err)
	}
	return nil
}

// command runs a program and keeps what it said for the error.
func (b Builder) command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	command := Child(ctx, name, args...)
	command.Env = append(os.Environ(), env...)
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	if err := RunChild(command); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said.String())
	}
	return out.String(), nil
}

// mirror is the Debian mirror of the system's apt. On other distributions it is
// Debian's own.
func (b Builder) mirror(ctx context.Context) string {
	out, err := b.command(ctx, nil, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
	for line := range strings.Lines(out) {
		if uri := strings.TrimSuffix(strings.TrimSpace(line), "/"); err == nil && strings.HasSuffix(uri, "/debian") {
			return uri
		}
	}
	return "http://deb.debian.org/debian"
}

// apt is a configuration of its own with the lists of one suite, returned as an
// environment for apt's programs.
func (b Builder) apt(ctx context.Context, suite string) ([]string, error) {
	dir := filepath.Join(b.Cache.Dir, "apt-"+suite)
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	mirror := b.mirror(ctx)
	sources := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, suite)
	if !strings.Contains(suite, "-") {
		sources += fmt.Sprintf("deb [signed-by=%s] %s-security %s-security main\n", keyring, mirror, suite)
	}
	config := strings.NewReplacer("DIR", dir).Replace(`Dir::Etc::sourcelist "DIR/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "DIR/lists";
Dir::State::status "/dev/null";
Dir::Cache "DIR/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
`)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources), 0o644),
		os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(config), 0o644)); err != nil {
		return nil, err
	}
	env := []string{"APT_CONFIG=" + filepath.Join(dir, "apt.conf")}
	_, err := b.command(ctx, env, "apt-get", "-qq", "update")
	return env, err
}

// emulatorDir is where QEMU is unpacked. An empty directory says that the
// system's own serves.
const emulatorDir = "qemu-" + emulatorSuite

// emulatorSuite packages QEMU 10. Up to 8 the RSS of a virtio NIC is software
// that stalls a queue for good once its ring was full (a full queue is retried
// when the guest refills the one that the tap chose, not the one that RSS
// chose), and there is no igb before 8.
const emulatorSuite = "bookworm-backports"

// emulator unpacks QEMU without installing it. Where the system's libraries are
// not those of Debian 12 it may not start; then the system's own is used.
func (b Builder) emulator(ctx context.Context, scratch string) error {
	target := filepath.Join(b.Cache.Dir, emulatorDir)
	env, err := b.apt(ctx, emulatorSuite)
	if err != nil {
		return err
	}
	tree := filepath.Join(scratch, "tree")
	if err := b.unpack(ctx, env, scratch, tree, "qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"); err != nil {
		return err
	}
	if _, err := b.command(ctx, nil, filepath.Join(tree, "usr/bin/qemu-system-x86_64"), "--version"); err != nil {
		fmt.Fprintf(b.Log, "using this system's QEMU, because that of %s does not start here: %v\n", emulatorSuite, err)
		return os.Mkdir(target, 0o755)
	}
	return os.Rename(tree, target)
}

// unpack downloads packages and unpacks them to a tree.
func (b Builder) unpack(ctx context.Context, env []string, scratch, tree string, names ...string) error {
	packages := filepath.Join(scratch, "packages")
	if err := os.MkdirAll(packages, 0o755); err != nil {
		return err
	}
	if _, err := b.command(ctx, env, "sh", append([]string{"-c", `cd "$0" && exec apt-get -qq download "$@"`, packages}, names...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := b.command(ctx, nil, "dpkg-deb", "-x", file, tree); err != nil {
			return err
		}
	}
	return nil
}

// root makes the image of Debian.
func (b Builder) root(ctx context.Context, scratch string) error {
	hooks := filepath.Join(scratch, "trim")
	if err := os.WriteFile(hooks, guest.Trim, 0o755); err != nil {
		return err
	}
	tree, image := filepath.Join(scratch, "root.tar"), filepath.Join(scratch, "root.squashfs")
	if _, err := b.command(ctx, nil, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+strings.Join(rootPackages(), ","),
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook="+hooks, rootSuite, tree, b.mirror(ctx)); err != nil {
		return err
	}
	// Nothing is compressed: unpacking costs more under emulation than reading.
	if _, err := b.command(ctx, nil, "sh", "-c", `exec mksquashfs - "$1" -tar -noI -noD -noF -noX -no-progress -quiet <"$0"`, tree, image); err != nil {
		return err
	}
	return os.Rename(image, b.Cache.root())
}

// kernel fetches a kernel and makes what QEMU boots: the kernel as ELF and an
// initial RAM disk with busybox, the guest's init and the modules.
func (b Builder) kernel(ctx context.Context, k Kernel, scratch string) error {
	env, err := b.apt(ctx, k.Suite)
	if err != nil {
		return err
	}
	release, err := b.unpackKernel(ctx, env, scratch)
	if err != nil {
		return err
	}
	out := filepath.Join(scratch, "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	image, err := firstOf(filepath.Join(scratch, "deb/boot/vmlinuz-"+release), filepath.Join(scratch, "deb/usr/lib/modules", release, "vmlinuz"))
	if err != nil {
		return err
	}
	if err := unpackImage(ctx, image, filepath.Join(out, "vmlinux")); err != nil {
		return err
	}
	if err := b.initrd(ctx, scratch, release, filepath.Join(out, "initrd")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "release"), []byte(release+"\n"), 0o644); err != nil {
		return err
	}
	target := filepath.Dir(b.Cache.kernel(k.Name, "release"))
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	return os.Rename(out, target)
}

func firstOf(paths ...string) (string, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("none of %s", strings.Join(paths, ", "))
}

// unpackKernel unpacks the packages of the newest kernel of a suite below
// scratch/deb and returns its release. Debian split the package at 7.x.
func (b Builder) unpackKernel(ctx context.Context, env []string, scratch string) (string, error) {
	depends, err := b.command(ctx, env, "apt-cache", "depends", "linux-image-amd64")
	if err != nil {
		return "", err
	}
	release := ""
	for line := range strings.Lines(depends) {
		_, name, ok := strings.Cut(strings.TrimSpace(line), "Depends: linux-image-")
		if ok && name != "" && name[0] >= '0' && name[0] <= '9' {
			release = name
		}
	}
	if release == "" {
		return "", errors.New("linux-image-amd64 depends on no kernel")
	}
	var fetch []string
	for _, part := range []string{"image", "modules", "binary", "base"} {
		if _, err := b.command(ctx, env, "apt-cache", "show", "linux-"+part+"-"+release); err == nil {
			fetch = append(fetch, "linux-"+part+"-"+release)
		}
	}
	return release, b.unpack(ctx, env, scratch, filepath.Join(scratch, "deb"), fetch...)
}

// Where a bzImage says how it is laid out: Documentation/arch/x86/boot.rst.
const (
	setupSectors  = 0x1f1 // one byte
	payloadOffset = 0x248 // four bytes, from the end of the setup code
	payloadLength = 0x24c // four bytes
)

// unpackImage writes the ELF kernel inside a bzImage to a file. The last four
// bytes of the payload are its unpacked size and no part of the stream.
func unpackImage(ctx context.Context, path, target string) error {
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	payload, err := payloadOf(image)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	program, err := unpacker(payload)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	defer out.Close()
	command := exec.CommandContext(ctx, program, "-dcq")
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(payload), out, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("unpack %s with %s: %w", path, program, err)
	}
	return out.Close()
}

func payloadOf(image []byte) ([]byte, error) {
	if len(image) < payloadLength+4 {
		return nil, fmt.Errorf("%d bytes are no kernel", len(image))
	}
	start := (uint64(image[setupSectors])+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if length < 8 || start+length > uint64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d in a file of %d", length, start, len(image))
	}
	return image[start : start+length-4], nil
}

func unpacker(payload []byte) (string, error) {
	for magic, program := range map[string]string{"\xfd7zX": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x1f\x8b": "gzip", "\x02\x21\x4c\x18": "lz4"} {
		if bytes.HasPrefix(payload, []byte(magic)) {
			return program, nil
		}
	}
	return "", fmt.Errorf("unknown compression %x", payload[:4])
}

// initrd packs busybox, the guest's init and the modules with what they need.
func (b Builder) initrd(ctx context.Context, scratch, release, target string) error {
	files := map[string][]byte{"init": guest.Init, "pack": guest.Pack}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(scratch, name), content, 0o755); err != nil {
			return err
		}
	}
	env := []string{"RELEASE=" + release, "MODULES=" + strings.Join(guestModules(), " "), "TARGET=" + target}
	_, err := b.command(ctx, env, "sh", "-c", `cd "$0" && exec sh ./pack`, scratch)
	return err
}
