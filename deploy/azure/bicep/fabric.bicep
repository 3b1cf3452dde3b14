// A capacity of Fabric. Workspace, lakehouse and warehouse are made in Fabric, see README.md.
param name string
param location string
param administrators array

resource capacity 'Microsoft.Fabric/capacities@2023-11-01' = {
  name: '${name}capacity'
  location: location
  sku: {
    name: 'F4'
    tier: 'Fabric'
  }
  properties: {
    administration: {
      members: administrators
    }
  }
}
