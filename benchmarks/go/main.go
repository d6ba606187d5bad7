// Sends messages as long as it is told to: on each line of standard input it sends that many and prints the seconds.
//
// Arguments: URL, topic, bytes of a message, and `async`, or `sync` with the number of threads.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"
	"github.com/apache/pulsar-client-go/pulsar/log"
)

const pending = 10_000

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	payload := make([]byte, must(strconv.Atoi(os.Args[3])))
	must(rand.Read(payload))
	async := os.Args[4] == "async"
	threads := 1
	if !async {
		threads = must(strconv.Atoi(os.Args[5]))
	}
	logger := log.NewLoggerWithSlog(slog.New(slog.NewTextHandler(io.Discard, nil)))
	client := must(pulsar.NewClient(pulsar.ClientOptions{URL: os.Args[1], Logger: logger}))
	defer client.Close()
	producer := must(client.CreateProducer(pulsar.ProducerOptions{
		Topic:                   os.Args[2],
		DisableBatching:         !async,
		MaxPendingMessages:      pending,
		BatchingMaxPublishDelay: time.Millisecond,
	}))
	defer producer.Close()
	fmt.Println("bench ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		count := must(strconv.Atoi(lines.Text()))
		began := time.Now()
		var delivered int64
		if async {
			delivered = sendAsync(producer, payload, count)
		} else {
			delivered = send(producer, payload, count, threads)
		}
		seconds := time.Since(began).Seconds()
		if delivered != int64(count) {
			panic(fmt.Sprintf("%d of %d were delivered", delivered, count))
		}
		fmt.Println("bench", seconds)
	}
}

func sendAsync(producer pulsar.Producer, payload []byte, count int) int64 {
	var delivered atomic.Int64
	var left sync.WaitGroup
	left.Add(count)
	for range count {
		message := &pulsar.ProducerMessage{Payload: payload}
		producer.SendAsync(context.Background(), message, func(_ pulsar.MessageID, _ *pulsar.ProducerMessage, err error) {
			if err == nil {
				delivered.Add(1)
			}
			left.Done()
		})
	}
	if err := producer.FlushWithCtx(context.Background()); err != nil {
		panic(err)
	}
	left.Wait()
	return delivered.Load()
}

func send(producer pulsar.Producer, payload []byte, count int, threads int) int64 {
	var delivered atomic.Int64
	var left sync.WaitGroup
	for thread := range threads {
		share := count / threads
		if thread < count%threads {
			share++
		}
		left.Add(1)
		go func() {
			defer left.Done()
			for range share {
				if _, err := producer.Send(context.Background(), &pulsar.ProducerMessage{Payload: payload}); err == nil {
					delivered.Add(1)
				}
			}
		}()
	}
	left.Wait()
	return delivered.Load()
}
