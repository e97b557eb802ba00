import time
from pathlib import Path
from ..bundles import *
from echoedge.runtime.engines import open_engine
from echoedge.runtime.parity import verify
from echoedge.core.bundle import Bundle
import shutil, os
def test_x(tmp_path):
    t=time.time()
    for w in os.environ['W'].split():
        p=tmp_path/'s.echoedge'
        m=export_small(p, w, lambda *a: print(a, round(time.time()-t,1), round(time.process_time(),1)))
        b=Bundle.open(p)
        v=verify(b,open_engine(b))
        for r in v.rows: print(r.name,r.measured,r.passed)
        print(v.lipsync_reference,v.lipsync_measured, time.time()-t)
        for n,q in m.programs.items(): print(n,q.bytes,q.delegation)
        shutil.rmtree(f'/tmp/small_{w}.echoedge', ignore_errors=True)
        shutil.copytree(p, f'/tmp/small_{w}.echoedge')
