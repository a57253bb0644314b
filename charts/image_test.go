//go:build linux

package charts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// An image is one that buildah made for this test, in storage of its own.
type image struct {
	t         *testing.T
	storage   []string // the options that say where buildah keeps things
	container string
}

// buildImage builds the target prebuilt around the binary and makes a
// container of it. Nothing is pulled: the image comes from scratch.
func buildImage(t *testing.T) *image {
	t.Helper()
	if !kafkatest.Full() {
		t.Skip("the image is built with SPILLWAY_E2E=full")
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		kafkatest.Skip(t, "building the image needs buildah: apt-get install buildah")
	}
	if os.Geteuid() != 0 {
		kafkatest.Skip(t, "building the image with buildah's chroot isolation needs root")
	}
	work := t.TempDir()
	im := &image{t: t, storage: []string{
		"--storage-driver", "vfs", "--root", filepath.Join(work, "root"), "--runroot", filepath.Join(work, "runroot"),
	}}
	folder := filepath.Join(work, "context")
	if err := os.MkdirAll(filepath.Join(folder, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(readFile(t, name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(build(t), filepath.Join(folder, "bin/spillway")); err != nil {
		t.Fatal(err)
	}
	im.buildah("bud", "--isolation", "chroot", "--pull-never", "--target", "prebuilt", "-t", "spillway", folder)
	im.container = strings.TrimSpace(im.buildah("from", "--pull-never", "spillway"))
	t.Cleanup(func() {
		// t.Context has ended by now.
		if out, err := exec.Command("buildah", append(im.storage, "rm", im.container)...).CombinedOutput(); err != nil {
			t.Errorf("buildah rm: %v\n%s", err, out)
		}
	})
	return im
}

func (im *image) buildah(args ...string) string {
	im.t.Helper()
	return run(im.t, root, nil, "buildah", append(im.storage, args...)...)
}

func TestImage(t *testing.T) {
	im := buildImage(t)

	config := im.buildah("inspect", "--type", "image", "--format",
		`user={{.OCIv1.Config.User}} entrypoint={{.OCIv1.Config.Entrypoint}} cmd={{.OCIv1.Config.Cmd}} ports={{.OCIv1.Config.ExposedPorts}}`, "spillway")
	if got, want := strings.TrimSpace(config), "user=65532:65532 entrypoint=[/spillway] cmd=[serve] ports=map[7999/tcp:{}]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	mount := strings.TrimSpace(im.buildah("mount", im.container))
	entries, err := os.ReadDir(mount)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	if got := strings.Join(files, " "); got != "spillway" {
		t.Errorf("the image holds %q, want only the binary", got)
	}
	im.buildah("umount", im.container)

	if got := im.buildah("run", "--isolation", "chroot", im.container, "--", "/spillway", "version"); !strings.HasPrefix(got, "spillway ") {
		t.Errorf("spillway version printed %q", got)
	}
}

// The demo needs all that the image must not lack: a user without a name, no
// home, no folder for temporary files.
func TestImageServes(t *testing.T) {
	im := buildImage(t)
	addr := freeAddr(t)
	args := append(im.storage, "run", "--isolation", "chroot",
		"--env", "HTTP_ADDR="+addr, "--env", "OPS_ADDR="+freeAddr(t), "--env", "CONTROL_ADDR="+freeAddr(t),
		im.container, "--", "/spillway", "demo")
	cmd := exec.Command("buildah", args...)
	// A group of its own, so that the program inside is ended with buildah.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // a signal ends it; what it has to say is in output
	}()
	stop := func(sig syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, sig) }

	event, err := firstEvent(t.Context(), "http://"+addr+"/events/test/", exited)
	stop(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(45 * time.Second):
		stop(syscall.SIGKILL)
		t.Error("the program did not end after SIGTERM")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, &output)
	}
	if !strings.HasPrefix(event, "data: ") {
		t.Errorf("got %q, want an event with data", event)
	}
}

// firstEvent returns the first data line of a stream, and asks again until
// someone listens there, for 30 seconds or until exited tells that nobody will.
func firstEvent(ctx context.Context, url string, exited <-chan struct{}) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		event, err := readEvent(ctx, url)
		if err == nil || ctx.Err() != nil {
			return event, err
		}
		select {
		case <-exited:
			return "", fmt.Errorf("the program ended: %w", err)
		case <-ctx.Done():
			return "", err
		case <-retry.C:
		}
	}
}

func readEvent(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "data:") {
			return sc.Text(), nil
		}
	}
	return "", errors.Join(sc.Err(), io.ErrUnexpectedEOF)
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t))
}
