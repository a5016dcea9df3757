# Two commands do everything: `make demo` shows the whole loop on this machine, `make test` proves it.
.PHONY: demo test install check
export PATH := $(CURDIR)/node_modules/node/bin:$(CURDIR)/node_modules/.bin:$(PATH)

demo:
	@tools/install.sh demo
	@node tools/demo.ts

test:
	@tools/install.sh test
	@npm run --silent ci

install:
	@tools/install.sh demo

check:
	@npm run --silent check
