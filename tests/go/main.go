// A client we did not write: grpc-go with its xDS resolver (`xds:///svc`), steered by tests/wire/test_go_client.py.
//
// Each line on standard input is a number of calls; the answer is one line with what each backend said, or the status of a call that
// failed: for a moment after a change of routes this client fails calls to a cluster it is only getting to know. The bootstrap comes
// from GRPC_XDS_BOOTSTRAP_CONFIG. Calls carry bare bytes, so that no generated message is needed.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const patience = 30 * time.Second

type bare struct{}

func (bare) Name() string                        { return "bare" }
func (bare) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (bare) Unmarshal(data []byte, into any) error {
	*into.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func main() {
	channel, err := grpc.NewClient("xds:///svc",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bare{}), grpc.WaitForReady(true)))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		times, err := strconv.Atoi(lines.Text())
		if err != nil {
			log.Fatal(err)
		}
		answers := make([]string, times)
		for i := range answers {
			answers[i] = ask(channel)
		}
		fmt.Println(strings.Join(answers, " "))
	}
}

func ask(channel *grpc.ClientConn) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	question, answer := []byte("?"), []byte(nil)
	if err := channel.Invoke(ctx, "/t.T/Who", &question, &answer); err != nil {
		log.Print(err)
		return status.Code(err).String()
	}
	return string(answer)
}
