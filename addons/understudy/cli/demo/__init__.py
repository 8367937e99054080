"""The stage of `understudy demo`: pretend upstreams, an agent, and what is shown of them."""
