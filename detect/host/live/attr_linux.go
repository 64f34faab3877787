package live

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// attrTypeMask removes NLA_F_NESTED and NLA_F_NET_BYTEORDER from a type
// (include/uapi/linux/netlink.h, NLA_TYPE_MASK).
const attrTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// eachAttr calls f for every netlink attribute of b, in order, and stops at the
// first error. Values alias b. Trailing bytes that are too few for a header are
// refused: the kernel pads to whole attributes.
func eachAttr(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.NLA_HDRLEN {
			return fmt.Errorf("netlink attribute: %d stray bytes", len(b))
		}
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & attrTypeMask
		if size < unix.NLA_HDRLEN || size > len(b) {
			return fmt.Errorf("netlink attribute %d: length %d of %d bytes", kind, size, len(b))
		}
		if err := f(kind, b[unix.NLA_HDRLEN:size]); err != nil {
			return err
		}
		b = b[min(aligned(size), len(b)):]
	}
	return nil
}

func aligned(size int) int {
	return (size + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
}

// attrUint decodes an attribute of type uint, which is 4 or 8 bytes long as the
// value needs (include/net/netlink.h, nla_put_uint), or u32, or u8.
func attrUint(value []byte) (uint64, error) {
	switch len(value) {
	case 1:
		return uint64(value[0]), nil
	case 4:
		return uint64(binary.NativeEndian.Uint32(value)), nil
	case 8:
		return binary.NativeEndian.Uint64(value), nil
	}
	return 0, fmt.Errorf("number of %d bytes", len(value))
}

// attrInt decodes an index or id, which the kernel keeps in 32 bits.
func attrInt(value []byte) (int, error) {
	n, err := attrUint(value)
	if err == nil && n > math.MaxInt32 {
		err = fmt.Errorf("number %d is no id", n)
	}
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// attrString decodes a zero-terminated string.
func attrString(value []byte) string {
	for i, c := range value {
		if c == 0 {
			return string(value[:i])
		}
	}
	return string(value)
}

// appendAttr adds one attribute with its padding.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, aligned(len(value))-len(value))...)
}

func appendUint32Attr(b []byte, kind uint16, value uint32) []byte {
	return appendAttr(b, kind, binary.NativeEndian.AppendUint32(nil, value))
}

// appendUintAttr adds an attribute of type uint in its short form where it fits.
func appendUintAttr(b []byte, kind uint16, value uint64) []byte {
	if value <= math.MaxUint32 {
		return appendUint32Attr(b, kind, uint32(value))
	}
	return appendAttr(b, kind, binary.NativeEndian.AppendUint64(nil, value))
}
