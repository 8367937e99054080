// A man-in-the-middle proxy on github.com/elazarl/goproxy that replaces one header: a peer for the
// benchmark, set up for speed (no log, leaf certificates cached, upstream connections kept).
//
// Usage: goproxy-bench ADDRESS CA_CERT CA_KEY UPSTREAM_CA PLACEHOLDER SECRET
package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/elazarl/goproxy"
)

type leaves struct{ byHost sync.Map }

func (l *leaves) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	if leaf, ok := l.byHost.Load(host); ok {
		return leaf.(*tls.Certificate), nil
	}
	leaf, err := make()
	if err == nil {
		l.byHost.Store(host, leaf)
	}
	return leaf, err
}

func main() {
	address, upstreamCA, placeholder, secret := os.Args[1], os.Args[4], os.Args[5], os.Args[6]
	ca, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	if ca.Leaf, err = x509.ParseCertificate(ca.Certificate[0]); err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile(upstreamCA)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)

	proxy := goproxy.NewProxyHttpServer()
	proxy.CertStore = &leaves{}
	proxy.Tr = &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 1024,
		DisableCompression:  true,
	}
	bump := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&ca)}
	proxy.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(
		func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return bump, host }))
	proxy.OnRequest().DoFunc(
		func(request *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
			if request.Header.Get("x-api-key") == placeholder {
				request.Header.Set("x-api-key", secret)
			}
			return request, nil
		})
	log.Fatal(http.ListenAndServe(address, proxy))
}
