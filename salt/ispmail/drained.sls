# Second step of a rotation, on each mail server: apply the maps and the consumers, then wait until no Postfix process uses
# an older table file.
include:
  - ispmail.maps
  - ispmail.consumers

No process asks with an older table file:
  postfix_map.drained:
    - timeout: {{ salt['pillar.get']('ispmail:rotation:drain', 60) | json }}
    - require:
      - sls: ispmail.maps
