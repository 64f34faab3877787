package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/archive"
	"github.com/napitune/napitune/probes/counters"
)

func captureCommand(e env) *cli.Command {
	return &cli.Command{
		Name:      "capture",
		Usage:     "record everything that napitune reads of this host into a file",
		ArgsUsage: noArguments,
		Description: "The file is text and can be read before it is passed on; .gz and .zst are compressed. Addresses, serial\n" +
			"numbers and host names are removed. Every command takes it with --host, on any machine and without root.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "o", Aliases: []string{"output"}, Usage: "write to `FILE`; - is standard output"},
			&cli.StringFlag{Name: "for", Value: "10s", Usage: "time between the two samples, such as 500ms, 30s or 2m; 0s takes one sample"},
			&cli.StringFlag{Name: "comment", Usage: "put `TEXT` at the head of the file"},
			&cli.BoolFlag{Name: "no-bpf", Usage: "do not use in-kernel probes"},
			probesFlag(),
			&cli.BoolFlag{Name: "force", Usage: "overwrite the file if it exists"},
			&cli.BoolFlag{Name: "v", Aliases: []string{"verbose"}, Usage: "log to stderr"},
		},
		Action: func(c *cli.Context) error { return capture(c, e) },
	}
}

func capture(c *cli.Context, e env) error {
	if err := refuseArguments(c); err != nil {
		return err
	}
	path := c.String("o")
	if path == "" {
		return errors.New("capture needs a file to write to: -o FILE")
	}
	if err := refuseExisting(path, c.Bool("force")); err != nil {
		return err
	}
	window, err := parseWindow(c)
	if err != nil {
		return err
	}
	names, err := parseProbes(c)
	if err != nil {
		return err
	}
	m, err := e.Open("")
	if err != nil {
		return err
	}
	o := options{window: window, noBPF: c.Bool("no-bpf"), probes: names, log: logger(e, c.Bool("v"))}
	o.style.Verbose = c.Bool("v")
	recorder, err := record(c.Context, e, m.last(), o)
	if err != nil {
		return err
	}
	return store(e, path, func(w io.Writer) error { return recorder.Write(w, c.String("comment")) })
}

// refuseExisting keeps a capture from destroying a file. The check comes before
// the window, so that nobody waits for a refusal.
func refuseExisting(path string, force bool) error {
	if path == "-" || force {
		return nil
	}
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("-o: %w", err)
	default:
		return fmt.Errorf("-o %s: the file exists; --force overwrites it", path)
	}
}

// record reads the host twice through a recorder, which keeps what is asked
// for, and keeps what the probes counted beside it.
func record(ctx context.Context, e env, h *host.Host, o options) (*archive.Recorder, error) {
	recorder := archive.NewRecorder(h)
	if o.window == 0 {
		_, err := detect.Collect(recorder.Host())
		return recorder, err
	}
	s, err := detect.Collect(h)
	if err != nil {
		return nil, err
	}
	p := startProbes(e, s, o)
	defer p.close()
	if _, err := recordSample(recorder, 0, p); err != nil {
		return nil, err
	}
	if err := p.pass(ctx, o.window, newProgress(e, o)); err != nil {
		return nil, err
	}
	recorder.NextSample()
	counted, err := recordSample(recorder, 1, p)
	if err != nil {
		return nil, err
	}
	if why := p.why(); why != "" && !o.noBPF {
		_, _ = fmt.Fprintln(e.Stderr, report.Clean(why))
	}
	if counted != nil && counted.CostUnknown != "" {
		_, _ = fmt.Fprintln(e.Stderr, "cost of the probes unknown: "+report.Clean(counted.CostUnknown))
	}
	return recorder, nil
}

func recordSample(r *archive.Recorder, n int, p *counting) (*counters.Counters, error) {
	_, counted, err := sample(r.Host(), p)
	if err != nil || counted == nil {
		return nil, err
	}
	raw, err := json.Marshal(counted)
	if err != nil {
		return nil, err
	}
	return counted, r.SetProbes(n, raw)
}

// store writes a capture: to standard output, or to a file that appears whole
// or not at all.
func store(e env, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(e.Stdout)
	}
	// Only the owner may read it until it was looked through.
	file, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	defer func() { _ = file.Cleanup() }()
	counted := &countingWriter{w: file}
	if err := compressed(counted, path, write); err != nil {
		return fmt.Errorf("-o %s: %w", path, err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("-o %s: %w", path, err)
	}
	_, err = fmt.Fprintf(e.Stderr, "wrote %s, %d bytes; %s\n", path, counted.n, scrubbed)
	return err
}

// scrubbed says what the recorder removes.
const scrubbed = "MAC and IP addresses, serial numbers, host names, boot id and RSS keys were replaced"

// compressed passes what is written on as the suffix of the file name asks.
func compressed(w io.Writer, path string, write func(io.Writer) error) error {
	switch {
	case strings.HasSuffix(path, ".gz"):
		z := gzip.NewWriter(w)
		return errors.Join(write(z), z.Close())
	case strings.HasSuffix(path, ".zst"):
		z, err := zstd.NewWriter(w)
		if err != nil {
			return err
		}
		return errors.Join(write(z), z.Close())
	default:
		return write(w)
	}
}

// countingWriter counts what passes through it.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
