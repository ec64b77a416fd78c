// A server of the Centrifuge library, with 10 messages of 100 bytes in the history of the channel "kept.a". Prints its port
// and the epoch of the history.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	node, err := centrifuge.New(centrifuge.DefaultConfig)
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "user"}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			options := centrifuge.SubscribeOptions{Recover: true}
			reply(centrifuge.SubscribeReply{Options: options}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	message := []byte(`"` + strings.Repeat("x", 100) + `"`)
	for n := 0; n < 10; n++ {
		history := centrifuge.WithHistory(100, time.Hour)
		if _, err := node.Publish("kept.a", message, history); err != nil {
			log.Fatal(err)
		}
	}
	history, err := node.History("kept.a")
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port, history.Epoch)
	log.Fatal(http.Serve(listener, nil))
}
