"""Errors by names of their own. UniFFI nests them, where no type checker finds them."""

from ._sdk import ClientError

UsageError = ClientError.Usage
PeerError = ClientError.Peer
RefusedError = ClientError.Refused
ServiceError = ClientError.Service
IssuerError = ClientError.Issuer
NetworkError = ClientError.Network
LocalError = ClientError.Local
