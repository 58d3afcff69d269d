// A client we did not write: grpc-go with its xDS resolver (`xds:///svc`), steered by tests/wire/test_go_client.py.
//
// Each line on standard input is a number of calls; the answer is one line with what each backend said, or the status of a call that
// failed: for a moment after a change of routes this client fails calls to a cluster it is only getting to know. The bootstrap comes
// from GRPC_XDS_BOOTSTRAP_CONFIG. Calls carry bare bytes, so that no generated message is needed.
//
// With an address as its argument it streams what it is told instead: a line is the path of a method, the number of answers to wait for,
// and messages, in base64; the answer is a line with the status of the call and the answers.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
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
	if len(os.Args) > 1 {
		stream(os.Args[1])
		return
	}
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

func stream(address string) {
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bare{})))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answers, err := strconv.Atoi(words[1])
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.Join(say(channel, words[0], answers, words[2:]), " "))
	}
}

func say(channel *grpc.ClientConn, path string, answers int, messages []string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	call, err := channel.NewStream(ctx, both, path)
	if err != nil {
		return []string{status.Code(err).String()}
	}
	for _, text := range messages {
		message, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			log.Fatal(err)
		}
		if err := call.SendMsg(&message); err != nil {
			return []string{status.Code(err).String()}
		}
	}
	heard := []string{""}
	for range answers {
		answer := []byte(nil)
		if err := call.RecvMsg(&answer); err != nil {
			return []string{status.Code(err).String()}
		}
		heard = append(heard, base64.StdEncoding.EncodeToString(answer))
	}
	call.CloseSend()
	rest := []byte(nil)
	if err := call.RecvMsg(&rest); err == io.EOF {
		heard[0] = "OK"
	} else {
		heard[0] = status.Code(err).String()
	}
	return heard
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
