// Package live is the running machine as a host.Host and a host.Writer: files
// below one root directory, ethtool ioctls, and the rtnetlink, ethtool and
// netdev netlink families. Beside package probes it is the only package that
// talks to the kernel.
//
// It reads without privileges whatever the kernel lets it read, keeps nothing
// between calls but open descriptors and names that cannot change before a
// reboot, and writes only through what OpenWriter returns.
//
// Descriptors belong to the network namespace of the caller of Open and
// OpenWriter, and answers are about that namespace.
package live

// Options say where the machine is found.
type Options struct {
	// Root is the directory below which proc, sys and etc are found; empty
	// means "/". Another directory serves containers that have the host's trees
	// mounted elsewhere, and tests. Netlink and ethtool always ask the running
	// kernel.
	Root string
}

func (o Options) root() string {
	if o.Root == "" {
		return "/"
	}
	return o.Root
}
