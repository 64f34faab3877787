package lab

import (
	_ "embed"
	"os"
	"os/exec"
	"strings"
)

//go:embed packages.txt
var packagesText string

// Packages are the Debian packages that the lab needs on the host.
func Packages() []string {
	var out []string
	for line := range strings.Lines(packagesText) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// Doctor lists the programs that the lab needs and that are not there.
func Doctor() []string {
	var missing []string
	programs := []string{
		"qemu-system-x86_64", "mmdebstrap", "mksquashfs", "busybox", "cpio", "depmod", "modprobe", "xz", "zstd", "lz4",
		"ip", "unshare", "mkfs.ext4", "apt-get", "dpkg-deb",
	}
	if os.Getuid() != 0 {
		// mmdebstrap maps the image's users with them.
		programs = append(programs, "newuidmap", "newgidmap")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	return missing
}

// InstallHint says what is missing and the command that installs it.
func InstallHint(missing []string) string {
	return "the lab needs " + strings.Join(missing, ", ") + ": run apt-get install -y --no-install-recommends " + strings.Join(Packages(), " ")
}
