"""On eight devices, five sums over four of them in a loop: what is read from the program, JSON a line."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xent.train.collectives import collectives
from xent.train.compiled import compile_for
from xent.train.sharding import make_mesh

mesh = make_mesh({"data": 4, "model": 2})


def sums(x):
    def body(carry, _):
        return jax.lax.psum(jnp.sin(carry), "data"), None

    return jax.lax.scan(body, x, length=5)[0]


over = jax.shard_map(sums, mesh=mesh, in_specs=P("model"), out_specs=P("model"), check_vma=False)
x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh, P("model")))
for one in collectives(compile_for(over, x)):
    print(json.dumps([one.kind, one.size, one.devices, one.times, one.received]))
