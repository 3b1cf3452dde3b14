// many_models in one resource group: the data plane, and by its switches Azure ML's workspaces and AKS:
//   az deployment group create --resource-group GROUP --template-file main.bicep --parameters main.bicepparam
// Roles are those of the README's section "On Azure". What Azure's resource manager cannot grant (users of a database,
// roles in a Fabric or Power BI workspace) is listed in README.md beside this file.
targetScope = 'resourceGroup'

@description('Begins the names of all resources: 3 to 11 small letters and digits.')
@minLength(3)
@maxLength(11)
param name string

param location string = resourceGroup().location

@description('Where the warehouse is: Azure SQL, a dedicated pool of Synapse, or a capacity of Fabric.')
@allowed(['sql', 'synapse', 'fabric'])
param warehouse string = 'sql'

@description('Whether storage, vaults, warehouse, images and workspaces are reached by private endpoints only.')
param privateEndpoints bool = false

@description('Object id of the Entra ID group that administers the database.')
param administratorsId string

@description('Name of that group.')
param administratorsName string

@description('User principal names of those who administer the Fabric capacity; needed with warehouse fabric.')
param fabricAdministrators array = []

@description('Whether models are registered in two Azure ML workspaces, staging and production.')
param machineLearning bool = false

@description('Whether Dagster and the real-time service run on AKS.')
param kubernetes bool = false

@description('Issuer that Azure DevOps shows for its service connections with workload identity federation; empty without them.')
param devOpsIssuer string = ''

@description('Subject identifier of the service connection many-models-promote.')
param promoteSubject string = ''

@description('Subject identifier of the service connection many-models-images.')
param imagesSubject string = ''

module identities 'identities.bicep' = {
  name: 'identities'
  params: {
    name: name
    location: location
    devOpsIssuer: devOpsIssuer
    promoteSubject: promoteSubject
    imagesSubject: imagesSubject
  }
}

module network 'network.bicep' = if (privateEndpoints) {
  name: 'network'
  params: {
    name: name
    location: location
  }
}

module storage 'storage.bicep' = {
  name: 'storage'
  params: {
    name: name
    location: location
    principalId: identities.outputs.principalId
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module vault 'vault.bicep' = {
  name: 'vault'
  params: {
    name: name
    location: location
    principalId: identities.outputs.principalId
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module factory 'factory.bicep' = {
  name: 'factory'
  params: {
    name: name
    location: location
    principalId: identities.outputs.principalId
    storageName: storage.outputs.name
    landing: storage.outputs.landing
    privateEndpoints: privateEndpoints
  }
}

module sql 'sql.bicep' = if (warehouse == 'sql') {
  name: 'sql'
  params: {
    name: name
    location: location
    administratorsId: administratorsId
    administratorsName: administratorsName
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module synapse 'synapse.bicep' = if (warehouse == 'synapse') {
  name: 'synapse'
  params: {
    name: name
    location: location
    administratorsId: administratorsId
    storageName: storage.outputs.name
    lake: storage.outputs.lake
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module fabric 'fabric.bicep' = if (warehouse == 'fabric') {
  name: 'fabric'
  params: {
    name: name
    location: location
    administrators: fabricAdministrators
  }
}

module images 'images.bicep' = {
  name: 'images'
  params: {
    name: name
    location: location
    pullId: identities.outputs.serveId
    pushId: identities.outputs.imagesId
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module registries 'registries.bicep' = {
  name: 'registries'
  params: {
    storageName: storage.outputs.name
    trainId: identities.outputs.trainId
    promoteId: identities.outputs.promoteId
    serveId: identities.outputs.serveId
  }
}

module stagingWorkspace 'workspace.bicep' = if (machineLearning) {
  name: 'staging-workspace'
  params: {
    name: name
    location: location
    role: 'staging'
    storageName: storage.outputs.name
    imagesName: images.outputs.name
    writerIds: [identities.outputs.trainId, identities.outputs.promoteId]
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module productionWorkspace 'workspace.bicep' = if (machineLearning) {
  name: 'production-workspace'
  params: {
    name: name
    location: location
    role: 'production'
    storageName: storage.outputs.name
    imagesName: images.outputs.name
    writerIds: [identities.outputs.promoteId]
    privateEndpoints: privateEndpoints
    subnetId: privateEndpoints ? network.outputs.subnetId : ''
  }
}

module cluster 'kubernetes.bicep' = if (kubernetes) {
  name: 'kubernetes'
  params: {
    name: name
    location: location
    imagesName: images.outputs.name
    networkName: privateEndpoints ? network.outputs.name : '${name}-network'
    privateEndpoints: privateEndpoints
    identityName: identities.outputs.name
    trainName: identities.outputs.trainName
    promoteName: identities.outputs.promoteName
  }
}

output clientId string = identities.outputs.clientId
output lakePath string = 'abfss://${storage.outputs.lake}@${storage.outputs.name}.dfs.${environment().suffixes.storage}/many_models'
output landingPath string = 'abfss://${storage.outputs.landing}@${storage.outputs.name}.dfs.${environment().suffixes.storage}'
output trainClientId string = identities.outputs.trainClientId
output promoteClientId string = identities.outputs.promoteClientId
output images string = images.outputs.name
