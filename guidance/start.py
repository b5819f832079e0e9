"""From a method's settings to the running method: the one place that knows the file of each."""

from __future__ import annotations

from guidance import csd, dsd, esd, fdistill, nfsd, sdi, sds, ssd, vsd
from guidance.method import Guidance, Setup
from guidance.settings import CSD, DSD, ESD, NFSD, SDI, SDS, SSD, VSD, FDistill, Method


def start(method: Method, setup: Setup) -> Guidance:
    """The method of these settings, started. UnfitMethod where the prior lacks what it needs."""
    match method:
        case SDS():
            return sds.start(setup, method)
        case CSD():
            return csd.start(setup, method)
        case SSD():
            return ssd.start(setup, method)
        case NFSD():
            return nfsd.start(setup, method)
        case VSD():
            return vsd.start(setup, method)
        case ESD():
            return esd.start(setup, method)
        case SDI():
            return sdi.start(setup, method)
        case DSD():
            return dsd.start(setup, method)
        case FDistill():
            return fdistill.start(setup, method)
