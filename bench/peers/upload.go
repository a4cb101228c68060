// A Go net/http handler that takes uploads, and who sends them to it: what Longshore's uploads are measured against.
//
//	upload serve DIR             prints its address; each request's body goes into a file of its own in DIR (io.Copy)
//	upload load URL SIZE COUNT   prints "ready" (in JSON); for each line on stdin COUNT PUTs of SIZE bytes at once, then seconds
//
// The handler neither syncs nor checks anything. The sender is net/http's client over keep-alive connections, its body
// prepared in memory.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(os.Args[2])
	case len(os.Args) == 5 && os.Args[1] == "load":
		load(os.Args[2], number(os.Args[3]), number(os.Args[4]))
	default:
		log.Fatal("upload serve DIR | upload load URL SIZE COUNT")
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func serve(dir string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := os.CreateTemp(dir, "upload-")
		if err == nil {
			_, err = io.Copy(file, r.Body)
			if closed := file.Close(); err == nil {
				err = closed
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})))
}

func load(url string, size, count int) {
	body := make([]byte, size)
	for at := range body {
		body[at] = byte(at >> 8)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: count}}
	number := 0
	fmt.Println(`"ready"`)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		began := time.Now()
		var group sync.WaitGroup
		for sender := 0; sender < count; sender++ {
			number++
			group.Add(1)
			go func(name int) {
				defer group.Done()
				put(client, fmt.Sprintf("%s/%d-%d", url, os.Getpid(), name), body)
			}(number)
		}
		group.Wait()
		fmt.Println(time.Since(began).Seconds())
	}
}

func put(client *http.Client, url string, body []byte) {
	request, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode/100 != 2 {
		log.Fatal(response.Status, err)
	}
}
