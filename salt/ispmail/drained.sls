# The maps are as pillar says, and no process of Postfix asks with an older table file.
include:
  - ispmail.maps

No process asks with an older table file:
  postfix_map.drained:
    - timeout: {{ salt['pillar.get']('ispmail:rotation:drain', 60) }}
    - require:
      - sls: ispmail.maps
