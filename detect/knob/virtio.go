package knob

// Feature bits of virtio devices (include/uapi/linux/virtio_net.h and
// virtio_config.h). The feature string of sysfs has bit i at character i
// (drivers/virtio/virtio.c, features_show).
const (
	virtioRingReset  = 40 // VIRTIO_F_RING_RESET
	virtioVQNotfCoal = 52 // VIRTIO_NET_F_VQ_NOTF_COAL
	virtioNotfCoal   = 53 // VIRTIO_NET_F_NOTF_COAL
)

const virtioDriver = "virtio_net"

// virtioLacks says why a virtio device cannot do what needs a feature bit; ""
// if it can, or if the device is not a virtio one. Where the feature string is
// unknown the answer is "no": most hypervisors offer none of these bits, and
// a proposal must be feasible.
func virtioLacks(d Dev, bit int, name, what string) string {
	switch {
	case d.Driver != virtioDriver:
		return ""
	case d.VirtioFeatures == "":
		return "not known whether the hypervisor offers " + what + " (" + name + "): the feature string was not read"
	case bit < len(d.VirtioFeatures) && d.VirtioFeatures[bit] == '1':
		return ""
	default:
		return "the hypervisor does not offer " + what + " (" + name + ")"
	}
}
