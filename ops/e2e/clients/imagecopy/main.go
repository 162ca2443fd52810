// Imagecopy copies an image with the library that skopeo, podman and buildah are made of, at its current version:
// their own programs cannot be installed as Go modules everywhere.
//
//	imagecopy [-user NAME:PASSWORD] [-all] SOURCE TARGET      as skopeo copy; without TLS on localhost
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

var transports = []types.ImageTransport{docker.Transport, layout.Transport, directory.Transport}

func main() {
	user := flag.String("user", "", "NAME:PASSWORD")
	all := flag.Bool("all", false, "every image of an index")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: imagecopy [-user NAME:PASSWORD] [-all] SOURCE TARGET")
		os.Exit(2)
	}
	if err := run(*user, *all, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(user string, all bool, from, to string) error {
	source, err := parse(from)
	if err != nil {
		return err
	}
	target, err := parse(to)
	if err != nil {
		return err
	}
	policy := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	checks, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	defer checks.Destroy()
	options := &copy.Options{SourceCtx: system(user, from), DestinationCtx: system(user, to), ReportWriter: os.Stdout}
	if all {
		options.ImageListSelection = copy.CopyAllImages
	}
	_, err = copy.Image(context.Background(), checks, target, source, options)
	return err
}

func parse(name string) (types.ImageReference, error) {
	for _, transport := range transports {
		if rest, found := strings.CutPrefix(name, transport.Name()+":"); found {
			return transport.ParseReference(rest)
		}
	}
	return nil, fmt.Errorf("%s names no transport", name)
}

func system(user, name string) *types.SystemContext {
	local := strings.HasPrefix(name, "docker://localhost")
	system := &types.SystemContext{DockerInsecureSkipTLSVerify: types.NewOptionalBool(local)}
	if name, password, found := strings.Cut(user, ":"); found {
		system.DockerAuthConfig = &types.DockerAuthConfig{Username: name, Password: password}
	}
	return system
}
